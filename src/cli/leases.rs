//! `lease add|ls|rm`.

use std::time::Duration;

use serde_json::json;

use super::args::LeaseCommand;
use super::output::{self, Failure};
use super::session::Session;
use super::snapshots::shown;
use crate::entry::Timestamp;
use crate::error::{Error, ErrorKind};
use crate::store::{LeaseInfo, LeaseOptions, rfc3339};

/// `lease add|ls|rm`
pub(super) fn lease(session: &Session<'_>, command: LeaseCommand) -> Result<(), Failure> {
    match command {
        LeaseCommand::Add { name, what, expires } => add(session, &name, &what, expires),
        LeaseCommand::Ls => list(session),
        LeaseCommand::Rm { names } => {
            names.iter().try_for_each(|name| session.store.remove_lease(name))?;
            session.output.result(&json!({ "removed": names }), "")
        }
    }
}

fn add(session: &Session<'_>, name: &str, what: &[String], expires: Duration) -> Result<(), Failure> {
    let mut options = LeaseOptions::default().duration(expires);
    for text in what {
        options = match (session.store.resolve(text), text.parse()) {
            (Ok(snapshot), _) => options.snapshot(snapshot),
            // No layer has it for its chain id.
            (Err(error), Ok(digest)) if error.kind() == ErrorKind::NotFound => options.blob(digest),
            (Err(error), _) => return Err(error.into()),
        };
    }
    let info = session.store.add_lease(name, &options)?;
    session.output.result(&info, format!("{}\n", shown(&info.name)))
}

fn list(session: &Session<'_>) -> Result<(), Failure> {
    let leases = session.store.leases()?;
    let end = |time: Option<Timestamp>| {
        // To the second, for people.
        time.map_or_else(|| "never".to_owned(), |time| rfc3339(Timestamp::from_seconds(time.seconds)))
    };
    let row = |lease: &LeaseInfo| {
        let kept = lease.snapshots.iter().map(|name| shown(name)).chain(lease.blobs.iter().map(ToString::to_string));
        vec![shown(&lease.name), end(lease.expires), kept.collect::<Vec<_>>().join(" ")]
    };
    let body: Vec<_> = leases.iter().map(row).collect();
    session.output.result(&leases, output::table(&["NAME", "EXPIRES", "KEEPS"], &body))
}

/// `90s`, `30m`, `24h`, `7d`, `never`.
pub(super) fn duration(text: &str) -> Result<Duration, Error> {
    if text == "never" {
        return Ok(Duration::MAX);
    }
    let refused = || {
        Error::new(ErrorKind::InvalidArgument, "read duration")
            .because(format!("{} is no duration: a number with s, m, h or d, or `never`", text.escape_debug()))
    };
    let unit = text.chars().next_back().and_then(|unit| {
        Some((unit, [('s', 1), ('m', 60), ('h', 3600), ('d', 86_400)].into_iter().find(|known| known.0 == unit)?.1))
    });
    let (unit, seconds) = unit.ok_or_else(refused)?;
    let number: u64 = text.strip_suffix(unit).and_then(|digits| digits.parse().ok()).ok_or_else(refused)?;
    Ok(Duration::from_secs(number.saturating_mul(seconds)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_a_number_and_a_unit() {
        for (text, seconds) in [("90s", 90), ("30m", 1800), ("24h", 86_400), ("7d", 604_800)] {
            assert_eq!(duration(text).unwrap(), Duration::from_secs(seconds), "{text}");
        }
        assert_eq!(duration("never").unwrap(), Duration::MAX);
        for text in ["", "h", "10", "1w", "-1h", "1.5h", "1é"] {
            assert_eq!(duration(text).unwrap_err().kind(), ErrorKind::InvalidArgument, "{text}");
        }
    }
}
