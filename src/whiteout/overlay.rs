//! overlayfs's forms of the same things, in an upperdir (the kernel's `Documentation/filesystems/overlayfs.rst`).
//!
//! A whiteout is a character device 0:0; an opaque directory carries `<style>.overlay.opaque` = `y`. Names that a layer sets below
//! `<style>.overlay.` are stored with that prefix doubled, and the kernel (6.7 and later) takes one off again: no layer speaks to
//! overlayfs itself.

/// The value of [`Style::opaque`].
pub(crate) const OPAQUE_VALUE: &[u8] = b"y";

/// The device number of a whiteout.
pub(crate) const WHITEOUT_DEVICE: (u32, u32) = (0, 0);

/// Which namespace of attributes an overlay uses: fixed when its store is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Style {
    /// `trusted.overlay.*`: mounted by root of the initial user namespace.
    Trusted,
    /// `user.overlay.*`: mounted with `userxattr`, in a user namespace.
    User,
}

impl Style {
    /// What the names begin with that overlayfs keeps for itself.
    pub(crate) const fn prefix(self) -> &'static [u8] {
        match self {
            Self::Trusted => b"trusted.overlay.",
            Self::User => b"user.overlay.",
        }
    }

    /// The attribute that makes a directory opaque.
    pub(crate) const fn opaque(self) -> &'static [u8] {
        match self {
            Self::Trusted => b"trusted.overlay.opaque",
            Self::User => b"user.overlay.opaque",
        }
    }

    /// Whether a name, as a container or a layer has it, would speak to overlayfs.
    pub(crate) fn owns(self, name: &[u8]) -> bool {
        name.starts_with(self.prefix())
    }

    /// Under which name an upperdir keeps an attribute that a container sees as `name`.
    pub(crate) fn escape(self, name: &[u8]) -> Vec<u8> {
        match name.strip_prefix(self.prefix()) {
            Some(rest) => [self.prefix(), b"overlay.", rest].concat(),
            None => name.to_vec(),
        }
    }

    /// As what a container sees an attribute that an upperdir keeps under `name`; `None` for overlayfs's own.
    pub(crate) fn unescape(self, name: &[u8]) -> Option<Vec<u8>> {
        match name.strip_prefix(self.prefix()) {
            Some(rest) => rest.strip_prefix(b"overlay.").map(|rest| [self.prefix(), rest].concat()),
            None => Some(name.to_vec()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escaped_names_come_back_and_the_kernels_own_are_none() {
        for style in [Style::Trusted, Style::User] {
            for name in
                [&b"user.x"[..], b"trusted.overlay.opaque", b"user.overlay.overlay.x", b"user.overlay.", b"trusted.overlayx"]
            {
                assert_eq!(style.unescape(&style.escape(name)).as_deref(), Some(name));
                assert!(!style.owns(name) || style.escape(name) != name);
            }
            assert_eq!(style.unescape(style.opaque()), None);
        }
        assert_eq!(Style::User.escape(b"trusted.overlay.opaque"), b"trusted.overlay.opaque");
        assert_eq!(Style::Trusted.escape(b"trusted.overlay.opaque"), b"trusted.overlay.overlay.opaque");
    }
}
