//! containerd's content service, as the tests play it: in memory, and with the answers that containerd 2.1 gives.

use std::collections::HashMap;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::net::UnixListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, UnixListenerStream};
use tokio_stream::{Stream, StreamExt as _};
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status, Streaming};

use crate::containerd::api::content::{self as pb, content_server};
use crate::digest::Algorithm;

/// What containerd holds, and what it was asked.
#[derive(Debug, Default)]
pub(super) struct Held {
    pub(super) blobs: HashMap<String, Stored>,
    /// What was begun and not committed, by reference.
    pub(super) ingests: HashMap<String, Vec<u8>>,
    /// Namespace and lease of each call.
    pub(super) asked: Vec<(String, String)>,
    /// A blob is cut off after so many bytes, with this error.
    pub(super) breaks: Option<(usize, Status)>,
    /// A blob ends after so many bytes, and nobody says that it was all.
    pub(super) ends: Option<usize>,
    /// No commit is taken.
    pub(super) is_full: bool,
    /// So much was read of blobs.
    pub(super) read: usize,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Stored {
    pub(super) bytes: Vec<u8>,
    pub(super) labels: HashMap<String, String>,
}

/// Clones are the same.
#[derive(Clone, Debug, Default)]
pub(super) struct FakeContent(Arc<Mutex<Held>>);

impl FakeContent {
    /// Serves on a socket for as long as the runtime lives.
    pub(super) async fn serve(&self, address: &Path) {
        let incoming = UnixListenerStream::new(UnixListener::bind(address).unwrap());
        let service = content_server::ContentServer::new(self.clone()).max_decoding_message_size(16 << 20);
        tokio::spawn(tonic::transport::Server::builder().serve_with_incoming_shutdown(
            service,
            incoming,
            std::future::pending::<()>(),
        ));
    }

    pub(super) fn held(&self) -> MutexGuard<'_, Held> {
        self.0.lock().unwrap()
    }

    /// Takes a blob in, and gives its digest.
    pub(super) fn add(&self, bytes: &[u8]) -> String {
        let digest = Algorithm::Sha256.digest(bytes).to_string();
        self.held().blobs.insert(digest.clone(), Stored { bytes: bytes.to_vec(), labels: HashMap::new() });
        digest
    }

    fn asked(&self, headers: &MetadataMap) {
        let header = |name: &str| headers.get(name).map_or("", |value| value.to_str().unwrap()).to_owned();
        self.held().asked.push((header("containerd-namespace"), header("containerd-lease")));
    }

    fn missing(digest: &str) -> Status {
        Status::not_found(format!("content {digest}: not found"))
    }

    fn write_one(&self, reference: &mut String, message: pb::WriteContentRequest) -> Result<pb::WriteContentResponse, Status> {
        if !message.r#ref.is_empty() {
            reference.clone_from(&message.r#ref);
        }
        let mut held = self.held();
        let written = held.ingests.entry(reference.clone()).or_default();
        let action = message.action();
        if action != pb::WriteAction::Stat {
            if message.offset > 0 && message.offset != written.len() as i64 {
                return Err(Status::out_of_range(format!("write @{} at {}", message.offset, written.len())));
            }
            if message.offset == 0 {
                written.clear();
            }
            written.extend_from_slice(&message.data);
        }
        let offset = written.len() as i64;
        let answer = pb::WriteContentResponse { action: message.action, offset, total: message.total, ..Default::default() };
        if action == pb::WriteAction::Commit {
            if held.is_full {
                return Err(Status::resource_exhausted("the disk is full"));
            }
            let bytes = held.ingests.remove(reference).unwrap_or_default();
            let digest = Algorithm::Sha256.digest(&bytes).to_string();
            assert_eq!((message.total, message.expected), (bytes.len() as i64, digest.clone()));
            if held.blobs.contains_key(&digest) {
                return Err(Status::already_exists(format!("content {digest}: already exists")));
            }
            held.blobs.insert(digest.clone(), Stored { bytes, labels: message.labels });
            return Ok(pb::WriteContentResponse { digest, ..answer });
        }
        Ok(answer)
    }
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl content_server::Content for FakeContent {
    type ReadStream = Answers<pb::ReadContentResponse>;
    type WriteStream = Answers<pb::WriteContentResponse>;

    async fn info(&self, request: Request<pb::InfoRequest>) -> Result<Response<pb::InfoResponse>, Status> {
        self.asked(request.metadata());
        let digest = request.into_inner().digest;
        let stored = self.held().blobs.get(&digest).cloned().ok_or_else(|| Self::missing(&digest))?;
        let info = pb::Info { digest, size: stored.bytes.len() as i64, labels: stored.labels, ..Default::default() };
        Ok(Response::new(pb::InfoResponse { info: Some(info) }))
    }

    async fn update(&self, request: Request<pb::UpdateRequest>) -> Result<Response<pb::UpdateResponse>, Status> {
        self.asked(request.metadata());
        let pb::UpdateRequest { info, update_mask } = request.into_inner();
        let info = info.unwrap();
        let mut held = self.held();
        let stored = held.blobs.get_mut(&info.digest).ok_or_else(|| Self::missing(&info.digest))?;
        for path in update_mask.unwrap().paths {
            let name = path.strip_prefix("labels.").unwrap();
            stored.labels.insert(name.to_owned(), info.labels[name].clone());
        }
        Ok(Response::new(pb::UpdateResponse { info: None }))
    }

    async fn read(&self, request: Request<pb::ReadContentRequest>) -> Result<Response<Self::ReadStream>, Status> {
        self.asked(request.metadata());
        let digest = request.into_inner().digest;
        let (bytes, breaks, ends) = {
            let held = self.held();
            let stored = held.blobs.get(&digest).ok_or_else(|| Self::missing(&digest))?;
            (stored.bytes.clone(), held.breaks.clone(), held.ends)
        };
        let (sender, receiver) = mpsc::channel(1);
        let held = self.clone();
        tokio::spawn(async move {
            let end = breaks.as_ref().map(|(end, _)| *end).or(ends).unwrap_or(bytes.len());
            // Pieces of odd sizes.
            for (number, piece) in bytes[..end].chunks(60_001).enumerate() {
                let message = pb::ReadContentResponse { offset: (number * 60_001) as i64, data: piece.to_vec() };
                if sender.send(Ok(message)).await.is_err() {
                    return;
                }
                held.held().read += piece.len();
            }
            if let Some((_, status)) = breaks {
                let _ = sender.send(Err(status)).await;
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn write(&self, request: Request<Streaming<pb::WriteContentRequest>>) -> Result<Response<Self::WriteStream>, Status> {
        self.asked(request.metadata());
        let (held, mut reference) = (self.clone(), String::new());
        let answers = request.into_inner().map(move |message| held.write_one(&mut reference, message?));
        Ok(Response::new(Box::pin(answers)))
    }

    async fn abort(&self, request: Request<pb::AbortRequest>) -> Result<Response<()>, Status> {
        self.asked(request.metadata());
        let reference = request.into_inner().r#ref;
        self.held().ingests.remove(&reference).map(|_| Response::new(())).ok_or_else(|| Status::not_found(reference))
    }
}
