//! The store in one file, on redb: crash-safe, with readers that never wait.
//!
//! One thread writes. It takes everything that is queued, runs each operation in turn inside one transaction and commits
//! once for all of them, so that the cost of making it durable is shared. An operation sees what those before it in the
//! same group did; one that fails leaves nothing behind. Readers get the last committed state.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, PoisonError, RwLock};
use std::thread::JoinHandle;

use redb::{Database, DatabaseError, Durability, ReadableDatabase as _, ReadableTable, StorageError, TableDefinition};
use tokio::sync::oneshot;

use super::tx::{Reader, Row, Tx};
use super::{Live, OpenError, StoreError};
use crate::clock::{Clock, UnixSeconds};

const FILE: &str = "tollgate.redb";
const ROWS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("rows");
/// Writes that may wait for the writer; one more is refused.
const QUEUE: usize = 1024;
/// Writes that share one commit.
const GROUP: usize = 256;
/// Pages that are kept in memory.
const CACHE_BYTES: usize = 32 << 20;

#[derive(Debug)]
pub(super) struct Embedded {
    folder: PathBuf,
    clock: Clock,
    live: Live,
    /// None while another process has the file.
    open: RwLock<Option<Open>>,
}

/// The file while it is open.
#[derive(Debug)]
struct Open {
    database: Arc<Database>,
    /// None only while it is dropped.
    queue: Option<SyncSender<Job>>,
    writer: Option<JoinHandle<()>>,
}

/// Runs an operation and says whether its changes are wanted; what is left is called with the outcome of the commit.
type Job = Box<dyn FnOnce(&mut Tx<'_>) -> (bool, Finish) + Send>;
type Finish = Box<dyn FnOnce(Result<(), StoreError>) + Send>;

impl Embedded {
    pub(super) fn open(folder: &Path, clock: Clock, live: Live) -> Result<Self, OpenError> {
        let open = Open::new(folder, clock.clone(), live.clone())?;
        Ok(Self { folder: folder.to_owned(), clock, live, open: RwLock::new(Some(open)) })
    }

    /// Carries out what is queued and lets go of the file. What is asked for from then on is [`StoreError::HandedOver`].
    pub(super) fn hand_over(&self) {
        drop(self.open.write().unwrap_or_else(PoisonError::into_inner).take());
    }

    /// Opens the file again.
    pub(super) fn take_back(&self) -> Result<(), OpenError> {
        let mut open = self.open.write().unwrap_or_else(PoisonError::into_inner);
        if open.is_none() {
            *open = Some(Open::new(&self.folder, self.clock.clone(), self.live.clone())?);
        }
        Ok(())
    }

    fn with_open<T>(&self, op: impl FnOnce(&Open) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let open = self.open.read().unwrap_or_else(PoisonError::into_inner);
        op(open.as_ref().ok_or(StoreError::HandedOver)?)
    }

    pub(super) async fn write<T: Send + 'static>(
        &self,
        op: impl FnOnce(&mut Tx<'_>) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (answer, wait) = oneshot::channel();
        let job: Job = Box::new(move |tx| {
            let result = op(tx);
            let finish = move |committed: Result<(), StoreError>, result: Result<T, StoreError>| {
                // Nobody waits when the request is gone; what it did stays done.
                let _ = answer.send(committed.and(result));
            };
            (result.is_ok(), Box::new(move |committed| finish(committed, result)))
        });
        self.with_open(|open| open.enqueue(job))?;
        wait.await.map_err(|_| StoreError::Closed)?
    }

    pub(super) fn write_later(&self, op: impl FnOnce(&mut Tx<'_>) -> Result<(), StoreError> + Send + 'static) -> bool {
        self.with_open(|open| open.enqueue(Box::new(move |tx| (op(tx).is_ok(), Box::new(|_| ()))))).is_ok()
    }

    pub(super) fn read<T>(
        &self,
        now: UnixSeconds,
        op: impl FnOnce(&Tx<'_>) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        self.with_open(|open| {
            let transaction = open.database.begin_read().map_err(storage)?;
            let table = transaction.open_table(ROWS).map_err(storage)?;
            op(&Tx::new(&Rows(&table), now))
        })
    }
}

impl Open {
    fn new(folder: &Path, clock: Clock, live: Live) -> Result<Self, OpenError> {
        let path = folder.join(FILE);
        prepare(folder, &path).map_err(|error| OpenError::Io { path: path.clone(), cause: error.to_string() })?;
        // A file that is damaged in a way its author did not foresee may make the library panic.
        let opened = catch_unwind(|| Database::builder().set_cache_size(CACHE_BYTES).create(&path));
        let database = match opened {
            Ok(Ok(database)) => Arc::new(database),
            Ok(Err(error)) => return Err(open_error(path, error)),
            Err(_) => return Err(OpenError::Damaged { path, cause: "it cannot be repaired".to_owned() }),
        };
        create_table(&database)?;
        let (queue, jobs) = sync_channel(QUEUE);
        let writer = Writer { database: database.clone(), clock, live };
        let writer = std::thread::Builder::new()
            .name("store".to_owned())
            .spawn(move || writer.run(&jobs))
            .map_err(|error| OpenError::Io { path, cause: error.to_string() })?;
        Ok(Self { database, queue: Some(queue), writer: Some(writer) })
    }

    fn enqueue(&self, job: Job) -> Result<(), StoreError> {
        let queue = self.queue.as_ref().ok_or(StoreError::Closed)?;
        queue.try_send(job).map_err(|error| match error {
            TrySendError::Full(_) => StoreError::Busy,
            TrySendError::Disconnected(_) => StoreError::Closed,
        })
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        drop(self.queue.take());
        if let Some(writer) = self.writer.take() {
            let _ = writer.join();
        }
    }
}

struct Writer {
    database: Arc<Database>,
    clock: Clock,
    live: Live,
}

impl Writer {
    fn run(&self, jobs: &Receiver<Job>) {
        while let Ok(first) = jobs.recv() {
            let mut group = vec![first];
            group.extend(jobs.try_iter().take(GROUP - 1));
            let mut finishes = Vec::with_capacity(group.len());
            let committed = self.commit(group, &mut finishes);
            if let Err(error) = &committed {
                tracing::error!(%error, "the store could not commit");
            }
            for finish in finishes {
                finish(committed.clone());
            }
        }
    }

    fn commit(&self, group: Vec<Job>, finishes: &mut Vec<Finish>) -> Result<(), StoreError> {
        let now = self.clock.now();
        let mut all = super::Changes::default();
        let mut changed = false;
        let mut transaction = self.database.begin_write().map_err(storage)?;
        transaction.set_durability(Durability::Immediate).map_err(storage)?;
        {
            let mut table = transaction.open_table(ROWS).map_err(storage)?;
            for job in group {
                let rows = Rows(&table);
                let mut tx = Tx::new(&rows, now);
                // A panic must not take the writer with it; whoever waits learns from the dropped channel.
                let Ok((wanted, finish)) = catch_unwind(AssertUnwindSafe(|| job(&mut tx))) else { continue };
                let changes = std::mem::take(&mut tx.changes);
                finishes.push(finish);
                if !wanted {
                    continue;
                }
                changed |= !changes.rows.is_empty();
                for (key, row) in changes.rows {
                    match row {
                        Some(row) => table.insert(key.as_slice(), row.as_slice()).map_err(storage)?,
                        None => table.remove(key.as_slice()).map_err(storage)?,
                    };
                }
                all.revoked.extend(changes.revoked);
                all.not_before.extend(changes.not_before);
                all.watched.extend(changes.watched);
            }
        }
        if !changed {
            return transaction.abort().map_err(storage);
        }
        transaction.commit().map_err(storage)?;
        self.live.follow(&mut all);
        Ok(())
    }
}

struct Rows<'a, T>(&'a T);

impl<T: ReadableTable<&'static [u8], &'static [u8]>> Reader for Rows<'_, T> {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.0.get(key).map_err(storage)?.map(|row| row.value().to_vec()))
    }

    fn range(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<Row>, StoreError> {
        let mut rows = Vec::new();
        for entry in self.0.range::<&[u8]>(from..to).map_err(storage)?.take(limit) {
            let (key, row) = entry.map_err(storage)?;
            rows.push((key.value().to_vec(), row.value().to_vec()));
        }
        Ok(rows)
    }
}

/// Makes the folder (0700) and the file (0600) when they are missing, and takes the file's mode back to 0600.
fn prepare(folder: &Path, file: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let opened = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(file)?;
    if opened.metadata()?.permissions().mode() & 0o077 != 0 {
        fs::set_permissions(file, fs::Permissions::from_mode(0o600))?;
    }
    Ok(())
}

fn create_table(database: &Database) -> Result<(), StoreError> {
    let transaction = database.begin_write().map_err(storage)?;
    transaction.open_table(ROWS).map_err(storage)?;
    transaction.commit().map_err(storage)
}

fn open_error(path: PathBuf, error: DatabaseError) -> OpenError {
    match error {
        DatabaseError::DatabaseAlreadyOpen => OpenError::Locked { path },
        DatabaseError::Storage(StorageError::Io(error)) if error.kind() != io::ErrorKind::InvalidData => {
            OpenError::Io { path, cause: error.to_string() }
        }
        other => OpenError::Damaged { path, cause: other.to_string() },
    }
}

fn storage(error: impl std::error::Error) -> StoreError {
    StoreError::Storage(error.to_string())
}
