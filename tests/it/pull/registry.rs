//! `examples/pull.rs`, as its reader would try it: against a real registry on this machine, over connections that break.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use super::resume::noise;
use super::*;
use crate::support::{Output, Tool, example, require};

/// Debian's `docker-registry`, until it is dropped.
struct Server {
    process: Child,
    host: String,
    _directory: tempfile::TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Server {
    fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let config = directory.path().join("config.yml");
        let storage = directory.path().join("storage");
        let text = format!(
            "version: 0.1\nlog: {{level: info}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: '127.0.0.1:0'}}\n",
            storage.display()
        );
        std::fs::write(&config, text).unwrap();
        let mut command = Command::new("docker-registry");
        command.arg("serve").arg(&config).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut process = command.spawn().unwrap();
        let mut log = BufReader::new(process.stderr.take().unwrap());
        let host = loop {
            let mut line = String::new();
            assert!(log.read_line(&mut line).unwrap() > 0, "the registry has ended");
            if let Some((_, rest)) = line.split_once("listening on ") {
                break rest.split(|c: char| !c.is_ascii_digit() && c != '.' && c != ':').next().unwrap().to_owned();
            }
        };
        // It must not wait for a reader of its log.
        std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
        Self { process, host, _directory: directory }
    }

    /// Puts an image in, as `name:1` (OCI distribution-spec, "Push").
    fn fill(&self, name: &str, registry: &Registry) {
        let manifest = registry.manifest.descriptor();
        let platform = &registry.index;
        for (digest, bytes) in registry.blobs.iter().filter(|(digest, _)| **digest != manifest.digest) {
            let (status, head) = self.send("POST", &format!("/v2/{name}/blobs/uploads/"), "text/plain", b"");
            assert_eq!(status, 202, "{head}");
            let location = head.lines().find_map(|line| line.strip_prefix("Location: ")).unwrap().trim();
            let path = &location[location.find("/v2/").unwrap()..];
            let (status, head) = self.send("PUT", &format!("{path}&digest={digest}"), "application/octet-stream", bytes);
            assert_eq!(status, 201, "{head}");
        }
        let bytes = &registry.blobs[&manifest.digest];
        for (tag, media_type, bytes) in [
            (manifest.digest.to_string(), manifest.media_type.as_str(), bytes.as_slice()),
            ("1".to_owned(), platform.descriptor().media_type.as_str(), &registry.index_bytes),
        ] {
            let (status, head) = self.send("PUT", &format!("/v2/{name}/manifests/{tag}"), media_type, bytes);
            assert_eq!(status, 201, "{head}");
        }
    }

    fn send(&self, method: &str, path: &str, media_type: &str, body: &[u8]) -> (u16, String) {
        let mut stream = TcpStream::connect(&self.host).unwrap();
        let (host, length) = (&self.host, body.len());
        write!(
            stream,
            "{method} {path} HTTP/1.0\r\nHost: {host}\r\nContent-Type: {media_type}\r\nContent-Length: {length}\r\n\r\n"
        )
        .unwrap();
        stream.write_all(body).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        (answer.split_whitespace().nth(1).unwrap().parse().unwrap(), answer)
    }
}

/// A bad line to a server: connections break after so many bytes of a blob.
struct Line {
    host: String,
    most: Arc<AtomicU64>,
    /// What was asked for: the path, and from which byte on.
    asked: Arc<Mutex<Vec<(String, u64)>>>,
}

impl Line {
    fn to(server: &Server) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let (most, asked) = (Arc::new(AtomicU64::new(u64::MAX)), Arc::new(Mutex::default()));
        let line = Self { host, most: Arc::clone(&most), asked: Arc::clone(&asked) };
        let server = server.host.clone();
        // It ends with the process.
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (stream, server, most, asked) = (stream.unwrap(), server.clone(), Arc::clone(&most), Arc::clone(&asked));
                std::thread::spawn(move || pass(stream, &server, &most, &asked));
            }
        });
        line
    }

    fn breaks_after(&self, bytes: u64) {
        self.most.store(bytes, Ordering::SeqCst);
    }

    fn take_asked(&self) -> Vec<(String, u64)> {
        std::mem::take(&mut self.asked.lock().unwrap())
    }
}

/// One request and its answer.
fn pass(stream: TcpStream, server: &str, most: &AtomicU64, asked: &Mutex<Vec<(String, u64)>>) -> Option<()> {
    let (mut reader, mut writer) = (BufReader::new(stream.try_clone().ok()?), stream);
    let mut request = head(&mut reader)?;
    let path = request.split_whitespace().nth(1)?.to_owned();
    let range = request.lines().find_map(|line| line.strip_prefix("Range: bytes=")?.strip_suffix('-')?.parse().ok());
    let is_blob = path.contains("/blobs/");
    asked.lock().unwrap().push((path, range.unwrap_or(0)));
    request = request.replace("Host: ", "X-Host: ").replacen("\r\n", &format!("\r\nHost: {server}\r\n"), 1);
    let mut upstream = TcpStream::connect(server).ok()?;
    upstream.write_all(request.as_bytes()).ok()?;
    let mut answer = BufReader::new(upstream);
    let start = head(&mut answer)?;
    writer.write_all(start.as_bytes()).ok()?;
    let most = if is_blob { most.load(Ordering::SeqCst) } else { u64::MAX };
    std::io::copy(&mut answer.take(most), &mut writer).ok().map(drop)
}

fn head(reader: &mut impl BufRead) -> Option<String> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head).ok()? == 0 {
            return None;
        }
    }
    Some(head)
}

#[test]
fn the_example_pulls_from_a_registry_and_goes_on_after_a_break() {
    let test = "pull::registry::the_example_pulls_from_a_registry_and_goes_on_after_a_break";
    let Some(program) = example(test, "pull").filter(|_| require(test, &["docker-registry"]) && is_root()) else { return };
    let image = image().layer(Layer::new().file("big", noise(100_000)), Compression::Gzip);
    let (tree, _) = imported(&image);
    let (registry, server) = (Registry::new(&image), Server::start());
    server.fill("some/image", &registry);
    let line = Line::to(&server);
    let directory = tempfile::tempdir().unwrap();
    let pull = |host: &str, tag: &str| -> Output {
        Tool::new(&program).arg(directory.path()).arg(format!("{host}/some/image:{tag}")).run()
    };
    let reference = format!("{}/some/image:1", line.host);

    let unknown = pull(&line.host, "2");
    assert!(unknown.status == 1 && unknown.stderr.contains("404"), "{unknown:?}");

    // The small layers come through; of the large one five pieces.
    line.breaks_after(4_000);
    line.take_asked();
    let failed = pull(&line.host, "1");
    assert!(failed.status == 1 && failed.stderr.contains("given up after 5 attempts"), "{failed:?}");
    let big = &registry.layers()[3];
    let of_big = |asked: Vec<(String, u64)>| -> Vec<u64> {
        let hex = big.digest.to_hex();
        asked.into_iter().filter(|(path, _)| path.contains(&hex)).map(|(_, from)| from).collect()
    };
    assert_eq!(of_big(line.take_asked()), [0, 4_000, 8_000, 12_000, 16_000]);

    line.breaks_after(50_000);
    let pulled = pull(&line.host, "1").ok();
    assert!(pulled.stdout.starts_with(&reference), "{pulled:?}");
    let asked = line.take_asked();
    assert_eq!(of_big(asked.clone()), [20_000, 70_000]);
    // What came whole before was not asked for again, but for the documents.
    let blobs = asked.iter().filter(|(path, _)| path.contains("/blobs/")).count();
    assert_eq!(blobs, 3, "{asked:?}");
    let store = Store::open(directory.path()).unwrap();
    assert_eq!(tree_of(&store, &reference), tree);
    assert_eq!(&store.image(&reference).unwrap().target, registry.index.descriptor());

    let again = pull(&server.host, "1").ok();
    assert!(again.stderr.contains("0 of 4 layers are missing"), "{again:?}");
}
