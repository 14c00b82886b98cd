//! How fast inflaters are on one gzip, in rounds in which they take turns: README.md.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, BufReader, Read};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::resource::{UsageWho, getrusage};

/// What inflates: a function, or a command that writes to its standard output.
enum Inflater {
    Here(&'static str, fn(&Path) -> io::Result<u64>),
    Command(String),
}

/// One of them at work: wall time, and processor time of this process and its children.
#[derive(Clone, Copy)]
struct Taken {
    wall: f64,
    cpu: f64,
}

fn main() -> io::Result<()> {
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    let [path, rounds, commands @ ..] = arguments.as_slice() else { return Err(io::Error::other("FILE ROUNDS [COMMAND]...")) };
    let rounds: usize =
        rounds.to_str().and_then(|rounds| rounds.parse().ok()).ok_or_else(|| io::Error::other("how many rounds?"))?;
    let mut inflaters =
        vec![Inflater::Here("flate2 on zlib-rs, streaming", streaming), Inflater::Here("libdeflate, all in memory", whole)];
    inflaters.extend(commands.iter().map(|command| Inflater::Command(command.to_string_lossy().into_owned())));
    let mut size = None;
    let mut all: Vec<Vec<Taken>> = vec![Vec::new(); inflaters.len()];
    for _ in 0..rounds {
        for (inflater, taken) in inflaters.iter().zip(&mut all) {
            let (start, before) = (Instant::now(), cpu()?);
            let found = inflater.run(Path::new(path))?;
            taken.push(Taken { wall: start.elapsed().as_secs_f64(), cpu: (cpu()? - before).as_secs_f64() });
            if *size.get_or_insert(found) != found {
                return Err(io::Error::other(format!("{}: {found} bytes", inflater.name())));
            }
        }
    }
    println!("{} bytes of gzip, {} inflated, {rounds} rounds\n", fs::metadata(path)?.len(), size.unwrap_or_default());
    println!("| inflater | wall: median (least) | processor: median (least) |\n|---|---|---|");
    for (inflater, taken) in inflaters.iter().zip(all) {
        let of = |part: fn(&Taken) -> f64| {
            let mut times: Vec<f64> = taken.iter().map(part).collect();
            times.sort_by(f64::total_cmp);
            format!("{:.2} s ({:.2})", times[times.len() / 2], times[0])
        };
        println!("| {} | {} | {} |", inflater.name(), of(|taken| taken.wall), of(|taken| taken.cpu));
    }
    Ok(())
}

impl Inflater {
    fn name(&self) -> String {
        match self {
            Self::Here(name, _) => (*name).to_owned(),
            Self::Command(command) => format!("`{command}`"),
        }
    }

    /// Inflates a file, and says how many bytes it holds.
    fn run(&self, path: &Path) -> io::Result<u64> {
        match self {
            Self::Here(_, inflate) => inflate(path),
            Self::Command(command) => {
                let mut words = command.split(' ');
                let program = words.next().unwrap_or_default();
                let mut child = Command::new(program).args(words).arg(path).stdout(Stdio::piped()).spawn()?;
                let size = child.stdout.take().map_or(Ok(0), count)?;
                if child.wait()?.success() { Ok(size) } else { Err(io::Error::other(format!("{command} failed"))) }
            }
        }
    }
}

fn cpu() -> io::Result<Duration> {
    let mut sum = Duration::ZERO;
    for who in [UsageWho::RUSAGE_SELF, UsageWho::RUSAGE_CHILDREN] {
        let usage = getrusage(who)?;
        for time in [usage.user_time(), usage.system_time()] {
            sum += Duration::from_secs(time.tv_sec().unsigned_abs()) + Duration::from_micros(time.tv_usec().unsigned_abs());
        }
    }
    Ok(sum)
}

fn count(mut reader: impl Read) -> io::Result<u64> {
    let (mut buffer, mut total) = (vec![0; 256 << 10], 0);
    loop {
        match reader.read(&mut buffer)? {
            0 => return Ok(total),
            count => total += count as u64,
        }
    }
}

fn streaming(path: &Path) -> io::Result<u64> {
    count(flate2::bufread::MultiGzDecoder::new(BufReader::with_capacity(256 << 10, File::open(path)?)))
}

/// It knows no streams: the trailer tells the size, of a single member of less than 4 GiB.
fn whole(path: &Path) -> io::Result<u64> {
    let bytes = fs::read(path)?;
    let size = bytes.last_chunk::<4>().map_or(0, |size| u32::from_le_bytes(*size));
    let mut out = vec![0; size as usize];
    let inflated = libdeflater::Decompressor::new().gzip_decompress(&bytes, &mut out).map_err(io::Error::other)?;
    Ok(inflated as u64)
}
