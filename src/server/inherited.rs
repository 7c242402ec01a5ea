//! Listening sockets that are open already when the process starts: the service manager's (`LISTEN_FDS`), or those of the
//! process that this one takes over from. Whoever waits in their queues is not turned away.

use std::net::{SocketAddr, TcpListener};

/// Sockets to listen on, until a listener asks for them.
#[derive(Debug, Default)]
pub struct Inherited(Vec<Socket>);

#[derive(Debug)]
struct Socket {
    /// The listener that it was opened for, and the address in its configuration; the service manager knows neither.
    listener: Option<(String, SocketAddr)>,
    socket: TcpListener,
}

impl Inherited {
    /// Adds the socket that was opened for `listener` at `address`, as the configuration has it.
    pub fn add(&mut self, listener: String, address: SocketAddr, socket: TcpListener) {
        self.0.push(Socket { listener: Some((listener, address)), socket });
    }

    /// Those of the service manager.
    pub fn of_service_manager() -> std::io::Result<Self> {
        let mut given = listenfd::ListenFd::from_env();
        let mut own = Self::default();
        for index in 0..given.len() {
            if let Some(socket) = given.take_tcp_listener(index)? {
                own.0.push(Socket { listener: None, socket });
            }
        }
        Ok(own)
    }

    /// The socket for `listener` at `address`. Port 0 is another one for each name.
    pub fn take(&mut self, listener: &str, address: SocketAddr) -> Option<TcpListener> {
        let fits = |open: &Socket| match &open.listener {
            Some((name, asked)) => *asked == address && (address.port() != 0 || name == listener),
            None => open.socket.local_addr().is_ok_and(|local| local == address),
        };
        let place = self.0.iter().position(fits)?;
        Some(self.0.swap_remove(place).socket)
    }

    /// Where sockets listen that no listener asked for.
    pub fn left(&self) -> Vec<SocketAddr> {
        self.0.iter().filter_map(|open| open.socket.local_addr().ok()).collect()
    }
}
