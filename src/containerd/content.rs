//! containerd's content store, asked over containerd's own socket: blobs are read from it and written to it, as streams that code that
//! blocks can use.
//!
//! Whatever was asked of plywood is asked of containerd in the same namespace and under the same lease. Both streams are bounded: who is
//! slow holds up the other.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::path::Path;

use tokio::sync::mpsc::{self, Receiver, Sender};
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::MetadataMap;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status, Streaming};

use super::api::content::{self as pb, content_client::ContentClient};
use super::server::MESSAGE_MAX;
use crate::digest::Digest;
use crate::error::{Error, ErrorKind, Result};

/// What of a request belongs to the requests that are made for it (`namespaces.GRPCHeader`, `leases.GRPCHeader`).
const HANDED_ON: [&str; 2] = ["containerd-namespace", "containerd-lease"];
/// How many messages wait between the two sides.
const QUEUE: usize = 4;
/// How many bytes are written by one message.
const CHUNK: usize = 1 << 20;
/// How many bytes of one blob are on their way at once.
const WINDOW: u32 = 4 << 20;
/// The digest of what a blob is compressed from (`labels.LabelUncompressed`).
pub(super) const UNCOMPRESSED: &str = "containerd.io/uncompressed";

/// containerd's content store. It is connected to when it is asked, and again when it was away.
#[derive(Clone, Debug)]
pub(super) struct ContentStore {
    channel: Channel,
}

/// The content store for one request.
#[derive(Clone, Debug)]
pub(super) struct Content {
    client: ContentClient<Channel>,
    headers: MetadataMap,
}

impl ContentStore {
    /// That of the containerd on this socket. In a tokio runtime.
    ///
    /// # Errors
    /// `InvalidArgument` for an address that is none.
    pub(super) fn at(address: &Path) -> Result<Self> {
        let refuse = |reason: &str| Error::new(ErrorKind::InvalidArgument, "serve").at(address).because(reason);
        let text = address.to_str().ok_or_else(|| refuse("containerd's address is not UTF-8"))?;
        let endpoint = Endpoint::from_shared(format!("unix:{text}"));
        let endpoint = endpoint.map_err(|error| refuse("it is no address of containerd's").with_source(error))?;
        // By default a message of containerd's takes sixteen windows.
        let endpoint = endpoint.initial_stream_window_size(WINDOW).initial_connection_window_size(WINDOW.saturating_mul(4));
        Ok(Self { channel: endpoint.connect_lazy() })
    }

    /// As whoever sent a request may ask it.
    pub(super) fn asked_by(&self, request: &MetadataMap) -> Content {
        let client = ContentClient::new(self.channel.clone());
        let client = client.max_decoding_message_size(MESSAGE_MAX).max_encoding_message_size(MESSAGE_MAX);
        let mut headers = MetadataMap::new();
        for name in HANDED_ON {
            if let Some(value) = request.get(name) {
                headers.insert(name, value.clone());
            }
        }
        Content { client, headers }
    }
}

impl Content {
    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        *request.metadata_mut() = self.headers.clone();
        request
    }

    /// Begins to read a blob from its beginning: a reader for another thread, and the work that feeds it.
    ///
    /// # Errors
    /// `NotFound` without such a blob; that of containerd.
    pub(super) async fn read(&self, digest: &Digest) -> Result<(BlobReader, Feed), Status> {
        let request = pb::ReadContentRequest { digest: digest.to_string(), offset: 0, size: 0 };
        let stream = self.client.clone().read(self.request(request)).await?.into_inner();
        let (sender, receiver) = mpsc::channel(QUEUE);
        Ok((BlobReader { receiver, chunk: Vec::new(), at: 0 }, Feed { stream, sender }))
    }

    /// Begins to write a blob: a writer for another thread, and the work that takes what it writes to containerd.
    pub(super) fn write(&self, reference: &str) -> (BlobWriter, Upload) {
        let (sender, receiver) = mpsc::channel(QUEUE);
        let writer = BlobWriter { sender, reference: reference.to_owned(), buffer: Vec::new(), offset: 0, is_begun: false };
        (writer, Upload { content: self.clone(), receiver })
    }

    /// What containerd knows of a blob.
    ///
    /// # Errors
    /// `NotFound` without such a blob; that of containerd.
    pub(super) async fn info(&self, digest: &str) -> Result<pb::Info, Status> {
        let request = self.request(pb::InfoRequest { digest: digest.to_owned() });
        self.client.clone().info(request).await.map(|response| response.into_inner().info.unwrap_or_default())
    }

    /// Gives a blob a label.
    ///
    /// # Errors
    /// `NotFound` without such a blob; that of containerd.
    pub(super) async fn label(&self, digest: &str, name: &str, value: &str) -> Result<(), Status> {
        let labels = HashMap::from([(name.to_owned(), value.to_owned())]);
        let info = pb::Info { digest: digest.to_owned(), labels, ..Default::default() };
        let update_mask = Some(prost_types::FieldMask { paths: vec![format!("labels.{name}")] });
        self.client.clone().update(self.request(pb::UpdateRequest { info: Some(info), update_mask })).await.map(drop)
    }

    /// Throws away what was written so far under a reference.
    pub(super) async fn abort(&self, reference: &str) {
        let request = self.request(pb::AbortRequest { r#ref: reference.to_owned() });
        if let Err(error) = self.client.clone().abort(request).await
            && error.code() != Code::NotFound
        {
            tracing::warn!(%error, reference, "what was written of a layer stays with containerd");
        }
    }
}

/// A blob on its way in.
#[derive(Debug)]
pub(super) struct BlobReader {
    receiver: Receiver<Result<Vec<u8>, Status>>,
    chunk: Vec<u8>,
    at: usize,
}

/// What feeds a [`BlobReader`].
#[derive(Debug)]
pub(super) struct Feed {
    stream: Streaming<pb::ReadContentResponse>,
    sender: Sender<Result<Vec<u8>, Status>>,
}

impl Feed {
    /// To the end of the blob, or until nobody reads it any more.
    ///
    /// # Errors
    /// That of containerd, which the reader is told, too.
    pub(super) async fn run(mut self) -> Result<(), Status> {
        let mut offset = 0_i64;
        loop {
            let next = match self.stream.message().await {
                Ok(None) => return Ok(()),
                Ok(Some(message)) if message.offset != offset => {
                    let found = message.offset;
                    Err(Status::data_loss(format!(
                        "containerd sent the bytes from {found} on, and those from {offset} on are wanted"
                    )))
                }
                Ok(Some(message)) => Ok(message.data),
                Err(status) => Err(status),
            };
            let failed = next.as_ref().err().cloned();
            offset = offset.saturating_add(i64::try_from(next.as_ref().map_or(0, Vec::len)).unwrap_or(i64::MAX));
            let sent = self.sender.send(next).await;
            match failed {
                Some(status) => return Err(status),
                None if sent.is_err() => return Ok(()),
                None => {}
            }
        }
    }
}

impl Read for BlobReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let rest = self.chunk.get(self.at..).unwrap_or_default();
            let count = rest.len().min(buffer.len());
            if count > 0 || buffer.is_empty() {
                if let (Some(to), Some(from)) = (buffer.get_mut(..count), rest.get(..count)) {
                    to.copy_from_slice(from);
                }
                self.at = self.at.saturating_add(count);
                return Ok(count);
            }
            match self.receiver.blocking_recv() {
                Some(Ok(chunk)) => (self.chunk, self.at) = (chunk, 0),
                Some(Err(status)) => return Err(io::Error::other(status)),
                // A feed that was dropped has sent no end: who expects more bytes finds out.
                None => return Ok(0),
            }
        }
    }
}

/// A blob on its way out. What is written is sent when it is a chunk, and the rest by [`commit`](Self::commit).
#[derive(Debug)]
pub(super) struct BlobWriter {
    sender: Sender<pb::WriteContentRequest>,
    reference: String,
    buffer: Vec<u8>,
    offset: u64,
    is_begun: bool,
}

/// What takes a blob to containerd.
#[derive(Debug)]
pub(super) struct Upload {
    content: Content,
    receiver: Receiver<pb::WriteContentRequest>,
}

impl BlobWriter {
    fn send(&mut self, action: pb::WriteAction, fill: impl FnOnce(&mut pb::WriteContentRequest)) -> io::Result<()> {
        let mut message = pb::WriteContentRequest {
            action: action.into(),
            r#ref: self.reference.clone(),
            offset: i64::try_from(self.offset).map_err(io::Error::other)?,
            ..Default::default()
        };
        fill(&mut message);
        self.sender.blocking_send(message).map_err(|_| io::Error::new(io::ErrorKind::BrokenPipe, "containerd takes no more"))
    }

    fn send_buffer(&mut self) -> io::Result<()> {
        if !self.is_begun {
            // The first one says what is written, and is answered before anything is.
            self.send(pb::WriteAction::Stat, |_| {})?;
            self.is_begun = true;
        }
        if self.buffer.is_empty() {
            return Ok(());
        }
        let data = std::mem::take(&mut self.buffer);
        let length = data.len() as u64;
        // At 0 whatever an earlier writer left is cut off.
        self.send(pb::WriteAction::Write, |message| message.data = data)?;
        self.offset = self.offset.saturating_add(length);
        Ok(())
    }

    /// Sends what is left, and says that it is this blob.
    ///
    /// # Errors
    /// `BrokenPipe` where containerd has ended the stream; why is for the [`Upload`] to say.
    pub(super) fn commit(&mut self, digest: &Digest, labels: HashMap<String, String>) -> io::Result<()> {
        self.send_buffer()?;
        let total = i64::try_from(self.offset).map_err(io::Error::other)?;
        self.send(pb::WriteAction::Commit, |message| {
            (message.total, message.expected, message.labels) = (total, digest.to_string(), labels);
        })
    }
}

impl Write for BlobWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= CHUNK {
            self.send_buffer()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// How an [`Upload`] ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Uploaded {
    /// containerd has the blob, now or before.
    Committed,
    /// The writer went away before it committed.
    GivenUp,
}

impl Upload {
    /// Until containerd has the blob, or the writer is gone.
    ///
    /// # Errors
    /// That of containerd.
    pub(super) async fn run(self) -> Result<Uploaded, Status> {
        let Self { content, receiver } = self;
        let request = content.request(ReceiverStream::new(receiver));
        let committed: Result<_, Status> = async {
            let mut answers = content.client.clone().write(request).await?.into_inner();
            while let Some(answer) = answers.message().await? {
                if answer.action() == pb::WriteAction::Commit {
                    return Ok(Uploaded::Committed);
                }
            }
            Ok(Uploaded::GivenUp)
        }
        .await;
        match committed {
            Err(status) if status.code() == Code::AlreadyExists => Ok(Uploaded::Committed),
            ended => ended,
        }
    }
}
