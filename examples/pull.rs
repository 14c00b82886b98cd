//! Pulls an image from a registry: what a client of [`Store::pull`] has to do, with threads, and with what happens when a connection breaks.
//!
//! `cargo run --release --example pull -- STORE HOST:PORT/NAME:TAG`
//!
//! The client is as small as it can be: HTTP/1.0 over a socket, no TLS, no credentials, no redirects. That does for a registry on this
//! machine; for any other put your favourite client in the place of [`get`]. What matters is what is done with the answers:
//!
//! 1. The tag names a manifest, or an index with one for each platform ([`ImageIndex::choose`]). The manifest names the config.
//! 2. [`Store::pull`] says which layers are missing. Those that are in the store, from whichever image, are not fetched.
//! 3. Several threads fetch, each another layer. A layer is verified and unpacked while it comes.
//! 4. A connection that breaks is made anew, from the byte on that is needed next. So is a pull: whoever runs this again after it was
//!    killed fetches no byte twice.
//! 5. [`Pull::finish`](plywood::store::Pull::finish) gives the image its name.

#![allow(clippy::disallowed_methods)] // a program, not the library

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::ExitCode;
use std::sync::Mutex;
use std::time::Duration;

use plywood::descriptor::{Descriptor, MediaType};
use plywood::store::{ImageIndex, ImageManifest, Missing, Pull, PullOptions, Store};
use plywood::{Context, ErrorKind};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// How many layers are fetched at once, and how often one is tried.
const THREADS: usize = 3;
const ATTEMPTS: u32 = 5;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [store, image] = arguments.as_slice() else {
        eprintln!("usage: pull STORE HOST:PORT/NAME:TAG");
        return ExitCode::from(2);
    };
    match pull(store, image) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let mut link: Option<&dyn std::error::Error> = Some(&*error);
            while let Some(error) = link {
                eprintln!("pull: {error}");
                link = error.source();
            }
            ExitCode::FAILURE
        }
    }
}

fn pull(store: &str, image: &str) -> Result<()> {
    let (store, cx) = (Store::open(store)?, Context::default());
    let (host, name) = image.split_once('/').ok_or("the image has no host: HOST:PORT/NAME:TAG")?;
    let (name, tag) = name.rsplit_once(':').unwrap_or((name, "latest"));
    let repository = Repository { host, name };

    let answer = repository.manifest(tag)?;
    let media_type = answer.media_type.clone();
    let bytes = answer.bytes()?;
    let mut options = PullOptions::default();
    let is_index = media_type.as_deref().is_some_and(|text| MediaType::new(text).is_index());
    let manifest = if is_index {
        let index = ImageIndex::new(bytes, media_type.as_deref())?;
        let descriptor = index.choose(None)?;
        options = options.index(index);
        ImageManifest::of(&descriptor, repository.manifest(&descriptor.digest.to_string())?.bytes()?)?
    } else {
        ImageManifest::new(bytes, media_type.as_deref())?
    };
    let config = repository.blob(manifest.config(), 0)?.bytes()?;

    let pull = store.pull(&manifest, &config, &options, &cx)?;
    let missing = pull.missing();
    eprintln!("{} of {} layers are missing", missing.len(), manifest.layers().count());
    let next = Mutex::new(missing.iter());
    let failed = std::thread::scope(|scope| {
        let work = || -> Result<()> {
            loop {
                let layer = next.lock().map_err(|_| "another thread panicked")?.next();
                let Some(layer) = layer else { return Ok(()) };
                fetch(&repository, &pull, layer)?;
            }
        };
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(work)).collect();
        threads.into_iter().filter_map(|thread| thread.join().unwrap_or_else(|_| Err("a thread panicked".into())).err()).next()
    });
    if let Some(error) = failed {
        // What came is kept for the next time.
        return Err(error);
    }
    let pulled = pull.finish(image, &cx)?;
    println!("{} {} ({} layers unpacked)", pulled.image.reference, pulled.image.manifest.digest, pulled.unpacked);
    Ok(())
}

/// Fetches one layer, if need be by several attempts.
fn fetch(repository: &Repository<'_>, pull: &Pull, layer: &Missing) -> Result<()> {
    let cx = Context::default();
    // `None`: somebody else has brought it meanwhile.
    let Some(mut ingest) = pull.ingest(&layer.descriptor, &cx)? else { return Ok(()) };
    let mut attempt = 1;
    while ingest.offset() < layer.descriptor.size {
        let (before, digest) = (ingest.offset(), &layer.descriptor.digest);
        let copied = repository.blob(&layer.descriptor, before).and_then(|answer| Ok(ingest.copy_from(answer.body, &cx)?));
        let is_broken = copied.as_ref().err().and_then(|error| error.downcast_ref::<plywood::Error>());
        if let Some(error) = is_broken.filter(|error| error.kind() != ErrorKind::Io) {
            return Err(format!("{digest}: {error}").into());
        }
        if ingest.offset() < layer.descriptor.size {
            eprintln!("{digest}: broken off after byte {}, begun at {before}", ingest.offset());
            if attempt == ATTEMPTS {
                return Err(format!("{digest}: given up after {attempt} attempts").into());
            }
            attempt += 1;
        }
    }
    Ok(ingest.finish(&cx)?)
}

/// A repository of a registry (OCI distribution-spec, "Pull").
struct Repository<'a> {
    host: &'a str,
    name: &'a str,
}

/// What came of a request.
struct Answer {
    media_type: Option<String>,
    body: Box<dyn Read>,
}

impl Answer {
    fn bytes(self) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        // Registries take no larger manifests.
        self.body.take(4 << 20).read_to_end(&mut bytes)?;
        Ok(bytes)
    }
}

impl Repository<'_> {
    fn manifest(&self, reference: &str) -> Result<Answer> {
        let accept = [MediaType::INDEX, MediaType::DOCKER_INDEX, MediaType::MANIFEST, MediaType::DOCKER_MANIFEST].join(", ");
        get(self.host, &format!("/v2/{}/manifests/{reference}", self.name), &accept, 0)
    }

    fn blob(&self, descriptor: &Descriptor, offset: u64) -> Result<Answer> {
        get(self.host, &format!("/v2/{}/blobs/{}", self.name, descriptor.digest), "*/*", offset)
    }
}

/// One request, over a connection of its own. From an offset on, whether the server knows ranges or not.
fn get(host: &str, path: &str, accept: &str, offset: u64) -> Result<Answer> {
    let mut stream = TcpStream::connect(host)?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    let range = if offset > 0 { format!("Range: bytes={offset}-\r\n") } else { String::new() };
    // HTTP/1.0: the answer is not chunked, and ends with the connection.
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {host}\r\nAccept: {accept}\r\n{range}\r\n")?;
    let mut stream = BufReader::new(stream);
    let (mut status, mut media_type, mut length) = (String::new(), None, u64::MAX);
    stream.read_line(&mut status)?;
    loop {
        let mut line = String::new();
        stream.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        match name.to_ascii_lowercase().as_str() {
            "content-type" => media_type = Some(value.trim().to_owned()),
            "content-length" => length = value.trim().parse()?,
            _ => {}
        }
    }
    match status.split_whitespace().nth(1) {
        Some("206") if offset > 0 => {}
        // The whole again.
        Some("200") => drop(std::io::copy(&mut stream.by_ref().take(offset), &mut std::io::sink())?),
        _ => return Err(format!("{host}{path}: {}", status.trim_end()).into()),
    }
    Ok(Answer { media_type, body: Box::new(stream.take(length)) })
}
