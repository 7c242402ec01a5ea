//! A caller's connection that speaks another protocol from now on, on its way to whoever carries its bytes.

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http::Extensions;
use tokio::sync::oneshot;

use super::Stream;

/// Who speaks to the caller hands the connection, or its stream, over with it.
pub type Handover = oneshot::Sender<Box<dyn Stream>>;

type Handed = oneshot::Receiver<Box<dyn Stream>>;

/// What an extended CONNECT asks for (`:protocol`, RFC 8441 section 4). Comes with the request.
#[derive(Clone, Debug)]
pub struct Protocol(pub Bytes);

/// Comes with a request that may switch protocols. Shared, as everything that comes with a request has to be; there is one
/// who waits.
#[derive(Clone)]
pub struct Switch(Arc<Mutex<Option<Handed>>>);

impl fmt::Debug for Switch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Switch").finish_non_exhaustive()
    }
}

impl Switch {
    pub fn new() -> (Handover, Self) {
        let (handover, handed) = oneshot::channel();
        (handover, Self(Arc::new(Mutex::new(Some(handed)))))
    }

    /// Takes that of a request.
    pub fn of(extensions: &mut Extensions) -> Option<Self> {
        extensions.remove::<Self>()
    }

    /// The connection, once the answer that switches was sent.
    pub async fn stream(self) -> io::Result<Box<dyn Stream>> {
        let handed = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        let gone = || io::Error::new(io::ErrorKind::NotConnected, "the caller left before the switch");
        handed.ok_or_else(gone)?.await.map_err(|_| gone())
    }
}
