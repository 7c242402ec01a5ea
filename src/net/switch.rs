//! A caller's connection that speaks another protocol from now on, on its way to whoever carries its bytes.

use std::convert::Infallible;
use std::{fmt, io};

use bytes::Bytes;
use tokio::sync::oneshot;

use super::Stream;

/// Who speaks to the caller hands the connection, or its stream, over with it.
pub type Handover = oneshot::Sender<HandedOver>;

/// What was handed over.
pub struct HandedOver {
    pub io: Box<dyn Stream>,
    /// Ends when the caller takes all of it back, also where nothing is read of it or written to it just then.
    pub over: Option<oneshot::Receiver<Infallible>>,
}

impl fmt::Debug for HandedOver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HandedOver").finish_non_exhaustive()
    }
}

/// What an extended CONNECT asks for (`:protocol`, RFC 8441 section 4).
#[derive(Clone, Debug)]
pub struct Protocol(pub Bytes);

/// Comes with a request that may switch protocols.
pub struct Switch(oneshot::Receiver<HandedOver>);

impl fmt::Debug for Switch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Switch").finish_non_exhaustive()
    }
}

impl Switch {
    pub fn new() -> (Handover, Self) {
        let (handover, handed) = oneshot::channel();
        (handover, Self(handed))
    }

    /// The connection, once the answer that switches was sent.
    pub async fn stream(self) -> io::Result<HandedOver> {
        let gone = |_| io::Error::new(io::ErrorKind::NotConnected, "the caller left before the switch");
        self.0.await.map_err(gone)
    }
}
