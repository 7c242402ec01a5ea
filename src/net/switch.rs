//! A caller's connection that speaks another protocol from now on, on its way to whoever carries its bytes.

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use http::Extensions;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::sync::oneshot;

use super::Stream;

/// Who speaks HTTP/1.1 to the caller hands the connection over with it.
pub type Handover = oneshot::Sender<Box<dyn Stream>>;

type Handed = oneshot::Receiver<Box<dyn Stream>>;

/// Comes with a request that may switch protocols.
#[derive(Clone)]
pub struct Switch(Kind);

#[derive(Clone)]
enum Kind {
    /// Shared, as everything that comes with a request has to be; there is one who waits.
    Http1(Arc<Mutex<Option<Handed>>>),
    Http2(OnUpgrade),
}

impl fmt::Debug for Switch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Switch").finish_non_exhaustive()
    }
}

impl Switch {
    pub fn http1() -> (Handover, Self) {
        let (handover, handed) = oneshot::channel();
        (handover, Self(Kind::Http1(Arc::new(Mutex::new(Some(handed))))))
    }

    /// Takes that of a request, of either version.
    pub fn of(extensions: &mut Extensions) -> Option<Self> {
        let http1 = extensions.remove::<Self>();
        http1.or_else(|| extensions.remove::<OnUpgrade>().map(|switch| Self(Kind::Http2(switch))))
    }

    /// The connection, once the answer that switches was sent.
    pub async fn stream(self) -> io::Result<Box<dyn Stream>> {
        match self.0 {
            Kind::Http1(handed) => {
                let handed = handed.lock().unwrap_or_else(PoisonError::into_inner).take();
                let gone = || io::Error::new(io::ErrorKind::NotConnected, "the caller left before the switch");
                handed.ok_or_else(gone)?.await.map_err(|_| gone())
            }
            Kind::Http2(switch) => Ok(Box::new(TokioIo::new(switch.await.map_err(io::Error::other)?))),
        }
    }
}
