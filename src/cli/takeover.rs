//! One process taking over from another without a caller noticing. On SIGUSR2 the gateway starts its program anew, which
//! may be a newer one by now, passes its listening sockets on, then its store, and drains when the next process serves.
//! Whatever goes wrong before that, the old process goes on.
//!
//! The two talk over a pair of sockets, one of which is the standard input of the next process:
//!
//! | from | line | means |
//! | --- | --- | --- |
//! | old | JSON, and the sockets | which listeners they are for |
//! | new | `store` | the configuration is good; the store is wanted |
//! | old | `closed` | everything is durable and the file is free |
//! | new | `ready` | it serves |

use std::io::{BufRead as _, BufReader, IoSlice, IoSliceMut, Write as _};
use std::mem::MaybeUninit;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, Lines};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::Instant;

use crate::server::Inherited;

/// Tells a process that its standard input is the one it takes over from.
const MARK: &str = "TOLLGATE_TAKES_OVER";
/// For the next process, from its start until it serves.
const PATIENCE: Duration = Duration::from_secs(60);
/// Sockets that are passed on at most: what the kernel takes in one message.
const SOCKETS: usize = 253;
/// For the line that says which sockets they are.
const LINE_BYTES: usize = 64 << 10;

/// The process that takes over, while it starts.
#[derive(Debug)]
pub(super) struct Successor {
    process: Child,
    lines: Lines<tokio::io::BufReader<OwnedReadHalf>>,
    writer: OwnedWriteHalf,
    deadline: Instant,
}

/// What it asks or tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    Store,
    Ready,
}

impl Successor {
    /// Starts `program` with the arguments of this process; it shares `sockets`, each with its listener and the address
    /// in the configuration.
    pub(super) fn start(program: &Path, sockets: &[(Arc<str>, SocketAddr, Arc<TcpListener>)]) -> anyhow::Result<Self> {
        let (own, theirs) = UnixStream::pair()?;
        let process = Command::new(program)
            .args(std::env::args_os().skip(1))
            .env(MARK, "1")
            // The watchdog of the service manager is the next one's too, though it was not started by it.
            .env_remove("WATCHDOG_PID")
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        let started = send(&own, sockets).and_then(|()| {
            own.set_nonblocking(true)?;
            Ok(tokio::net::UnixStream::from_std(own)?.into_split())
        });
        match started {
            Ok((reader, writer)) => {
                let lines = tokio::io::BufReader::new(reader).lines();
                Ok(Self { process, lines, writer, deadline: Instant::now() + PATIENCE })
            }
            Err(error) => {
                end(process);
                Err(error)
            }
        }
    }

    pub(super) fn id(&self) -> u32 {
        self.process.id()
    }

    /// The next thing that it says. Nothing is lost when this is dropped.
    pub(super) async fn wish(&mut self) -> anyhow::Result<Wish> {
        let line = tokio::time::timeout_at(self.deadline, self.lines.next_line()).await;
        match line.context("the next process takes too long to start")??.as_deref() {
            Some("store") => Ok(Wish::Store),
            Some("ready") => Ok(Wish::Ready),
            Some(_) => anyhow::bail!("the next process says what this one does not understand"),
            None => anyhow::bail!("the next process ended: its log says why"),
        }
    }

    /// Tells it that the store is its own now.
    pub(super) async fn give_store(&mut self) -> anyhow::Result<()> {
        Ok(self.writer.write_all(b"closed\n").await?)
    }

    /// Ends it, and waits until it has let go of everything.
    pub(super) fn end(self) {
        end(self.process);
    }
}

fn end(mut process: Child) {
    // It may have ended by itself.
    let _ = process.kill();
    let _ = process.wait();
}

fn send(to: &UnixStream, sockets: &[(Arc<str>, SocketAddr, Arc<TcpListener>)]) -> anyhow::Result<()> {
    anyhow::ensure!(sockets.len() <= SOCKETS, "more than {SOCKETS} listeners cannot be passed on");
    let names: Vec<(&str, &SocketAddr)> = sockets.iter().map(|(name, address, _)| (&**name, address)).collect();
    let line = format!("{}\n", serde_json::to_string(&names)?);
    let descriptors: Vec<BorrowedFd<'_>> = sockets.iter().map(|(_, _, socket)| socket.as_fd()).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(SOCKETS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    anyhow::ensure!(control.push(SendAncillaryMessage::ScmRights(&descriptors)), "the sockets do not fit");
    let sent = sendmsg(to, &[IoSlice::new(line.as_bytes())], &mut control, SendFlags::NOSIGNAL)?;
    anyhow::ensure!(sent == line.len(), "the names of the listeners do not fit");
    Ok(())
}

/// The process that this one takes over from.
#[derive(Debug)]
pub(super) struct Predecessor(UnixStream);

/// What a process starts with.
#[derive(Debug, Default)]
pub(super) struct Heritage {
    pub(super) sockets: Inherited,
    pub(super) predecessor: Option<Predecessor>,
}

impl Heritage {
    /// Of the process before or of the service manager, as the environment says.
    pub(super) fn receive() -> anyhow::Result<Self> {
        if std::env::var_os(MARK).is_none() {
            let sockets = Inherited::of_service_manager().context("the sockets of the service manager (LISTEN_FDS)")?;
            return Ok(Self { sockets, predecessor: None });
        }
        let stream = UnixStream::from(std::io::stdin().as_fd().try_clone_to_owned()?);
        stream.set_read_timeout(Some(PATIENCE))?;
        let sockets =
            receive(&stream).with_context(|| format!("{MARK} is set, and no gateway passes its sockets on"))?;
        Ok(Self { sockets, predecessor: Some(Predecessor(stream)) })
    }
}

fn receive(from: &UnixStream) -> anyhow::Result<Inherited> {
    let mut text = vec![0; LINE_BYTES];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(SOCKETS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = recvmsg(from, &mut [IoSliceMut::new(&mut text)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let line = text.get(..received.bytes).unwrap_or_default();
    let names: Vec<(String, SocketAddr)> = serde_json::from_slice(line).context("the names of the listeners")?;
    let mut descriptors = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(more) = message {
            descriptors.extend(more);
        }
    }
    anyhow::ensure!(names.len() == descriptors.len(), "{} names for {} sockets", names.len(), descriptors.len());
    let mut sockets = Inherited::default();
    for ((listener, address), descriptor) in names.into_iter().zip(descriptors) {
        sockets.add(listener, address, TcpListener::from(descriptor));
    }
    Ok(sockets)
}

impl Predecessor {
    /// Waits until the store is free. Until then the other one serves by it.
    pub(super) fn ask_for_store(&mut self) -> anyhow::Result<()> {
        self.0.write_all(b"store\n")?;
        let mut answer = String::new();
        BufReader::new(&self.0).read_line(&mut answer)?;
        anyhow::ensure!(answer == "closed\n", "the process before keeps its store");
        Ok(())
    }

    /// From here on the other one serves no more.
    pub(super) fn tell_ready(mut self) -> anyhow::Result<()> {
        Ok(self.0.write_all(b"ready\n")?)
    }
}
