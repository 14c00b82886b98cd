//! File capabilities: the value of `security.capability` (`linux/capability.h`).
//!
//! Revision 2 is honoured in the user namespace of the file system, and below; revision 3 has the id of the root behind it whose namespace
//! it is for. Pure: bytes in, bytes out.

/// `VFS_CAP_REVISION_MASK` and the revisions.
const REVISION: u32 = 0xff00_0000;
const REVISION_2: u32 = 0x0200_0000;
const REVISION_3: u32 = 0x0300_0000;

/// A capability of revision 2 or 3.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FileCapability {
    flags: u32,
    sets: [u8; 16],
    root: u32,
}

impl FileCapability {
    /// `None` for what no kernel takes; those of revision 1 can be read, and not be set any more.
    pub(crate) fn parse(value: &[u8]) -> Option<Self> {
        let (magic, rest) = value.split_first_chunk().map(|(magic, rest)| (u32::from_le_bytes(*magic), rest))?;
        let (sets, rest) = rest.split_first_chunk()?;
        let root = match (magic & REVISION, rest) {
            (REVISION_2, []) => 0,
            (REVISION_3, rest) => u32::from_le_bytes(rest.try_into().ok()?),
            _ => return None,
        };
        Some(Self { flags: magic & !REVISION, sets: *sets, root })
    }

    /// The root of the namespace that it is for.
    pub(crate) const fn root(&self) -> u32 {
        self.root
    }

    /// The value for another root. One for root itself is of revision 2, which means the same and which every reader knows.
    pub(crate) fn with_root(&self, root: u32) -> Vec<u8> {
        let revision = if root == 0 { REVISION_2 } else { REVISION_3 };
        let mut value = (self.flags | revision).to_le_bytes().to_vec();
        value.extend_from_slice(&self.sets);
        if root != 0 {
            value.extend_from_slice(&root.to_le_bytes());
        }
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_of_root_is_of_revision_2_and_any_other_of_revision_3() {
        let sets: Vec<u8> = (1..=16).collect();
        let two = [&[1, 0, 0, 2][..], &sets].concat();
        let three = [&[1, 0, 0, 3][..], &sets, &[0xa0, 0x86, 1, 0]].concat();
        let capability = FileCapability::parse(&two).unwrap();
        assert_eq!((capability.root(), capability.with_root(0), capability.with_root(100_000)), (0, two.clone(), three.clone()));
        let capability = FileCapability::parse(&three).unwrap();
        assert_eq!(
            (capability.root(), capability.with_root(0), capability.with_root(100_000)),
            (100_000, two.clone(), three.clone())
        );
        let of_root = [&three[..20], &[0; 4]].concat();
        assert_eq!(FileCapability::parse(&of_root).unwrap().with_root(0), two);
    }

    #[test]
    fn what_the_kernel_does_not_take_is_none() {
        let value = |revision, length| {
            let mut value = vec![7; length];
            value[..4].copy_from_slice(&[0, 0, 0, revision]);
            value
        };
        for (revision, length) in [(1, 12), (1, 20), (2, 12), (2, 19), (2, 24), (3, 20), (3, 23), (3, 25), (4, 24)] {
            assert_eq!(FileCapability::parse(&value(revision, length)), None, "{revision}, {length} bytes");
        }
        assert_eq!(FileCapability::parse(&[]), None);
    }
}
