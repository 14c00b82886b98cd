//! Platforms: how they are written, which one this host is, and which of several an image offers fits best.
//!
//! Spellings and the order of variants are those of the OCI image-spec (image-index.md "Platform Variants") and of containerd's
//! `platforms` package, so that the same image is chosen here and there. Pure, but for asking the processor what it can do.

use std::fmt;
use std::str::FromStr;

use serde::Serialize;

use crate::error::{Error, ErrorKind, Result};

/// An operating system and an architecture with its variant: `linux/amd64`, `linux/arm/v7`.
///
/// ```
/// let arm: plywood::store::Platform = "linux/armhf".parse()?;
/// assert_eq!(arm.to_string(), "linux/arm/v7");
/// # Ok::<(), plywood::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[non_exhaustive]
pub struct Platform {
    /// Go's name of the operating system.
    pub os: String,
    /// Go's name of the architecture.
    pub architecture: String,
    /// The variant, where it is not the architecture's ordinary one: none for amd64 v1 and arm64 v8.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
}

impl Platform {
    /// A platform, its spelling brought to the usual one (`x86_64` is `amd64`, `aarch64` is `arm64`, arm without a variant is v7).
    pub fn new(os: &str, architecture: &str, variant: Option<&str>) -> Self {
        let os = match os.to_ascii_lowercase().as_str() {
            "macos" => "darwin".to_owned(),
            other => other.to_owned(),
        };
        let architecture = architecture.to_ascii_lowercase();
        let variant = variant.unwrap_or_default().to_ascii_lowercase();
        let (architecture, variant) = match (architecture.as_str(), variant.as_str()) {
            ("x86_64" | "x86-64" | "amd64", "v1" | "") => ("amd64", ""),
            ("x86_64" | "x86-64" | "amd64", other) => ("amd64", other),
            ("i386" | "386", _) => ("386", ""),
            ("aarch64" | "arm64", "8" | "v8" | "") => ("arm64", ""),
            ("aarch64" | "arm64", other) => ("arm64", other),
            ("armhf", _) => ("arm", "v7"),
            ("armel", _) => ("arm", "v6"),
            ("arm", "" | "7") => ("arm", "v7"),
            ("arm", "5") => ("arm", "v5"),
            ("arm", "6") => ("arm", "v6"),
            ("arm", "8") => ("arm", "v8"),
            (architecture, variant) => (architecture, variant),
        };
        Self { os, architecture: architecture.to_owned(), variant: (!variant.is_empty()).then(|| variant.to_owned()) }
    }

    /// A platform as a document has it; `None` where a name is missing or is none.
    pub(crate) fn of_document(os: Option<&str>, architecture: Option<&str>, variant: Option<&str>) -> Option<Self> {
        let platform = Self::new(os?, architecture?, variant);
        // What cannot be written as a platform is none, and would lie in every message.
        platform.to_string().parse().ok().filter(|read: &Self| *read == platform)
    }

    /// What stands for a platform that nobody tells.
    pub(crate) fn unknown() -> Self {
        Self::new("unknown", "unknown", None)
    }

    /// What this process can run natively: `linux` and the architecture it was built for, with the highest variant that the
    /// processor has.
    pub fn host() -> Self {
        let architecture = match std::env::consts::ARCH {
            "x86" => "386",
            "loongarch64" => "loong64",
            "powerpc64" if cfg!(target_endian = "little") => "ppc64le",
            "powerpc64" => "ppc64",
            "mips64" if cfg!(target_endian = "little") => "mips64le",
            other => other,
        };
        Self::new("linux", architecture, host_variant())
    }

    /// What every machine of this host's architecture can run: the platform of an image that is made here from nothing.
    pub(crate) fn host_baseline() -> Self {
        let host = Self::host();
        match host.architecture.as_str() {
            "arm" => host,
            _ => Self { variant: None, ..host },
        }
    }

    /// How well an image for `offered` runs on this platform: 0 is exact, larger is an older variant, `None` not at all.
    pub(crate) fn rank(&self, offered: &Self) -> Option<u32> {
        if self.os != offered.os || self.architecture != offered.architecture {
            return None;
        }
        if self.variant == offered.variant {
            return Some(0);
        }
        let ordinary = match self.architecture.as_str() {
            "amd64" => 1,
            "arm64" => 8,
            "arm" => 7,
            _ => return None,
        };
        let level = |platform: &Self| match &platform.variant {
            None => Some(ordinary),
            Some(variant) => variant.strip_prefix('v')?.parse::<u32>().ok(),
        };
        level(self)?.checked_sub(level(offered)?)
    }

    /// `unknown/unknown` marks what is no image for any platform: attestations, provenance.
    pub(crate) fn is_unknown(&self) -> bool {
        self.os == "unknown" || self.architecture == "unknown"
    }
}

#[cfg(target_arch = "x86_64")]
fn host_variant() -> Option<&'static str> {
    // The levels of the x86-64 psABI.
    let v2 = is_x86_feature_detected!("cmpxchg16b")
        && is_x86_feature_detected!("popcnt")
        && is_x86_feature_detected!("sse3")
        && is_x86_feature_detected!("sse4.1")
        && is_x86_feature_detected!("sse4.2")
        && is_x86_feature_detected!("ssse3");
    let v3 = v2
        && is_x86_feature_detected!("avx")
        && is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("bmi1")
        && is_x86_feature_detected!("bmi2")
        && is_x86_feature_detected!("f16c")
        && is_x86_feature_detected!("fma")
        && is_x86_feature_detected!("lzcnt")
        && is_x86_feature_detected!("movbe")
        && is_x86_feature_detected!("xsave");
    let v4 = v3
        && is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512cd")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl");
    match (v2, v3, v4) {
        (_, _, true) => Some("v4"),
        (_, true, _) => Some("v3"),
        (true, _, _) => Some("v2"),
        _ => None,
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn host_variant() -> Option<&'static str> {
    // A binary for ARMv7 runs on nothing older; one for ARMv6 may run on either, and says what is safe.
    (cfg!(target_arch = "arm") && !cfg!(target_feature = "v7")).then_some("v6")
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os.escape_debug(), self.architecture.escape_debug())?;
        self.variant.as_ref().map_or(Ok(()), |variant| write!(f, "/{}", variant.escape_debug()))
    }
}

impl FromStr for Platform {
    type Err = Error;

    /// Reads `os/arch` or `os/arch/variant`.
    ///
    /// # Errors
    /// `InvalidArgument` for anything else.
    fn from_str(text: &str) -> Result<Self> {
        let parts: Vec<&str> = text.split('/').collect();
        let plain =
            |part: &&str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'));
        match parts.as_slice() {
            [os, architecture] if parts.iter().all(plain) => Ok(Self::new(os, architecture, None)),
            [os, architecture, variant] if parts.iter().all(plain) => Ok(Self::new(os, architecture, Some(variant))),
            _ => Err(Error::new(ErrorKind::InvalidArgument, "parse platform")
                .at(text)
                .because("a platform is OS/ARCH or OS/ARCH/VARIANT, as linux/amd64 or linux/arm/v7")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn platform(text: &str) -> Platform {
        text.parse().unwrap()
    }

    #[test]
    fn spellings_of_the_same_platform_are_equal() {
        for (spelling, usual) in [
            ("linux/x86_64", "linux/amd64"),
            ("linux/amd64/v1", "linux/amd64"),
            ("Linux/aarch64", "linux/arm64"),
            ("linux/arm64/v8", "linux/arm64"),
            ("linux/arm", "linux/arm/v7"),
            ("linux/armel", "linux/arm/v6"),
            ("linux/i386", "linux/386"),
            ("windows/amd64", "windows/amd64"),
            ("linux/amd64/v3", "linux/amd64/v3"),
        ] {
            assert_eq!(platform(spelling).to_string(), usual, "{spelling}");
        }
        for text in ["", "linux", "linux/", "/amd64", "a/b/c/d", "linux/am d64", "linux/amd64/"] {
            assert_eq!(text.parse::<Platform>().unwrap_err().kind(), ErrorKind::InvalidArgument, "{text}");
        }
    }

    #[test]
    fn older_variants_fit_and_newer_ones_do_not() {
        for (wanted, offered, rank) in [
            ("linux/arm/v7", "linux/arm/v7", Some(0)),
            ("linux/arm/v7", "linux/arm/v6", Some(1)),
            ("linux/arm/v7", "linux/arm/v8", None),
            ("linux/arm/v8", "linux/arm", Some(1)),
            ("linux/arm64", "linux/arm64/v8", Some(0)),
            ("linux/arm64/v9", "linux/arm64", Some(1)),
            ("linux/arm64", "linux/arm/v8", None),
            ("linux/amd64/v3", "linux/amd64", Some(2)),
            ("linux/amd64", "linux/amd64/v2", None),
            ("linux/amd64", "linux/386", None),
            ("linux/amd64", "windows/amd64", None),
            ("linux/riscv64", "linux/riscv64", Some(0)),
        ] {
            assert_eq!(platform(wanted).rank(&platform(offered)), rank, "{wanted} {offered}");
        }
    }

    #[test]
    fn what_a_document_cannot_mean_is_no_platform() {
        let of = |os, architecture, variant| Platform::of_document(os, architecture, variant).map(|platform| platform.to_string());
        assert_eq!(of(Some("linux"), Some("arm64"), Some("v8")).as_deref(), Some("linux/arm64"));
        assert_eq!(of(Some("linux"), Some("arm"), Some("")).as_deref(), Some("linux/arm/v7"));
        for (os, architecture, variant) in [
            (None, Some("arm64"), None),
            (Some(""), Some("x"), None),
            (Some("a/b"), Some("c"), None),
            (Some("a"), Some("b"), Some("\n")),
        ] {
            assert_eq!(of(os, architecture, variant), None);
        }
    }

    #[test]
    fn the_host_runs_what_is_built_for_it() {
        let host = Platform::host();
        assert_eq!(host.os, "linux");
        assert!(host.rank(&Platform::new("linux", std::env::consts::ARCH, None)).is_some());
    }
}
