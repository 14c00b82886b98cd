//! Which boot of the machine this is: what was not synced before another one may be gone.

use std::io::Read as _;

/// The boot's id; empty where the kernel does not tell, which is then no boot that anybody remembers.
pub(crate) fn id() -> String {
    let mut text = String::new();
    let read = std::fs::File::open("/proc/sys/kernel/random/boot_id").and_then(|file| file.take(64).read_to_string(&mut text));
    if read.is_ok() { text.trim().to_owned() } else { String::new() }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_boot_is_the_same_until_the_next() {
        assert_eq!(super::id(), super::id());
        assert_eq!(super::id().len(), 36);
    }
}
