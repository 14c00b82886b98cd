//! A disk in memory, the log of what was written to it, and what a power cut may leave of that.

use std::sync::Arc;

use crate::support::work::Dice;

const PAGE: usize = 4096;
/// What a disk writes whole or not at all.
const SECTOR: usize = 512;

type Page = [u8; PAGE];

/// What stands on a disk. A copy shares the pages that neither side has changed.
#[derive(Clone)]
pub(super) struct Disk {
    pages: Vec<Option<Arc<Page>>>,
}

impl Disk {
    /// A disk of so many bytes, all zeros.
    pub(super) fn new(size: u64) -> Self {
        Self { pages: vec![None; usize::try_from(size).unwrap() / PAGE] }
    }

    pub(super) fn size(&self) -> u64 {
        (self.pages.len() * PAGE) as u64
    }

    pub(super) fn read(&self, offset: u64, into: &mut [u8]) {
        each_page(offset, into.len(), |page, within, range| match self.pages.get(page) {
            Some(Some(bytes)) => into[range.clone()].copy_from_slice(&bytes[within..within + range.len()]),
            _ => into[range].fill(0),
        });
    }

    pub(super) fn write(&mut self, offset: u64, bytes: &[u8]) {
        each_page(offset, bytes.len(), |page, within, range| {
            if let Some(slot) = self.pages.get_mut(page) {
                let page = Arc::make_mut(slot.get_or_insert_with(|| Arc::new([0; PAGE])));
                page[within..within + range.len()].copy_from_slice(&bytes[range]);
            }
        });
    }

    pub(super) fn zero(&mut self, offset: u64, length: u64) {
        each_page(offset, usize::try_from(length).unwrap(), |page, within, range| match self.pages.get_mut(page) {
            Some(slot) if range.len() == PAGE => *slot = None,
            Some(Some(bytes)) => Arc::make_mut(bytes)[within..within + range.len()].fill(0),
            _ => {}
        });
    }
}

/// For each page that `length` bytes from `offset` touch: its number, where in it they begin, and which of the bytes they are.
fn each_page(offset: u64, length: usize, mut each: impl FnMut(usize, usize, std::ops::Range<usize>)) {
    let offset = usize::try_from(offset).unwrap();
    let mut done = 0;
    while done < length {
        let (page, within) = ((offset + done) / PAGE, (offset + done) % PAGE);
        let step = (PAGE - within).min(length - done);
        each(page, within, done..done + step);
        done += step;
    }
}

/// One thing that the disk was told.
pub(super) enum Told {
    Write {
        offset: u64,
        bytes: Box<[u8]>,
    },
    /// A discard, or zeros.
    Zero {
        offset: u64,
        length: u64,
    },
    Flush,
}

/// What became of the writes that no flush has made durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rest {
    /// All of them are there.
    Kept,
    /// None.
    Dropped,
    /// Each is, or is not.
    Some,
    /// Of each some sectors are.
    Torn,
}

impl Rest {
    pub(super) const ALL: [Self; 4] = [Self::Kept, Self::Dropped, Self::Some, Self::Torn];
}

/// A moment of the cut: how much of the log the disk has heard, what became of the rest, and the seed of the choices in it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cut {
    pub(super) at: usize,
    pub(super) rest: Rest,
    pub(super) seed: u64,
}

/// The disk as it was when recording began, and what it was told since.
pub(super) struct Log {
    base: Disk,
    pub(super) told: Vec<Told>,
    /// The disk after so much of the log, for the next cut.
    reached: Option<(usize, Disk)>,
}

impl Log {
    pub(super) fn new(base: Disk) -> Self {
        Self { base, told: Vec::new(), reached: None }
    }

    /// How much of the log each flush makes durable.
    pub(super) fn flushes(&self) -> Vec<usize> {
        let flushes = self.told.iter().enumerate().filter(|(_, told)| matches!(told, Told::Flush));
        flushes.map(|(index, _)| index + 1).collect()
    }

    /// What stands on the disk after the cut.
    pub(super) fn after(&mut self, cut: Cut) -> Disk {
        let heard = &self.told[..cut.at];
        let durable = heard.iter().rposition(|told| matches!(told, Told::Flush)).map_or(0, |index| index + 1);
        let (from, mut disk) = match self.reached.take() {
            Some((reached, disk)) if reached <= durable => (reached, disk),
            _ => (0, self.base.clone()),
        };
        heard[from..durable].iter().for_each(|told| apply(told, &mut disk));
        self.reached = Some((durable, disk.clone()));
        let mut dice = Dice::new(cut.seed);
        for told in &heard[durable..] {
            match cut.rest {
                Rest::Kept => apply(told, &mut disk),
                Rest::Dropped => {}
                Rest::Some if dice.below(2) == 0 => apply(told, &mut disk),
                Rest::Some => {}
                Rest::Torn => tear(told, &mut disk, &mut dice),
            }
        }
        disk
    }
}

fn apply(told: &Told, disk: &mut Disk) {
    match told {
        Told::Write { offset, bytes } => disk.write(*offset, bytes),
        Told::Zero { offset, length } => disk.zero(*offset, *length),
        Told::Flush => {}
    }
}

/// Some sectors of a write: the first ones, or any.
fn tear(told: &Told, disk: &mut Disk, dice: &mut Dice) {
    let Told::Write { offset, bytes } = told else { return apply(told, disk) };
    let sectors = bytes.len() / SECTOR;
    let whole = dice.below(3) == 0;
    let first = dice.below(2) == 0;
    let up_to = dice.below(sectors as u64 + 1) as usize;
    for sector in 0..sectors {
        let kept = whole || if first { sector < up_to } else { dice.below(2) == 0 };
        if kept {
            let at = sector * SECTOR;
            disk.write(offset + at as u64, &bytes[at..at + SECTOR]);
        }
    }
}

/// The tests of the tests: what a cut leaves is what its rule says.
mod self_tests {
    use super::*;

    fn log() -> Log {
        let mut log = Log::new(Disk::new(16 * PAGE as u64));
        let write = |page: u64, byte: u8| Told::Write { offset: page * PAGE as u64, bytes: vec![byte; PAGE].into() };
        let third = Told::Zero { offset: 512, length: 2 * 4096 };
        log.told = vec![write(0, 1), write(1, 2), Told::Flush, write(0, 3), third, write(2, 4)];
        log
    }

    fn bytes(disk: &Disk) -> Vec<u8> {
        let mut bytes = vec![9; disk.size() as usize];
        disk.read(0, &mut bytes);
        bytes
    }

    #[test]
    fn what_was_flushed_stays_and_the_rest_is_as_the_cut_says() {
        let mut log = log();
        assert_eq!(log.flushes(), [3]);
        let mut at = |at, rest| bytes(&log.after(Cut { at, rest, seed: 7 }));
        let durable = [vec![1; PAGE], vec![2; PAGE], vec![0; 14 * PAGE]].concat();
        assert_eq!(at(6, Rest::Dropped), durable);
        assert_eq!(at(3, Rest::Dropped), durable);
        assert_eq!(at(3, Rest::Torn), durable);
        assert_eq!(at(2, Rest::Kept), durable);
        assert_eq!(at(2, Rest::Dropped), vec![0; 16 * PAGE]);
        let all = [vec![3; SECTOR], vec![0; 2 * PAGE - SECTOR], vec![4; PAGE], vec![0; 13 * PAGE]].concat();
        assert_eq!(at(6, Rest::Kept), all);
    }

    #[test]
    fn what_was_not_flushed_is_kept_by_writes_or_by_sectors() {
        let mut log = log();
        let (mut halves, mut seen) = (0, std::collections::BTreeSet::new());
        for seed in 0..64 {
            let some = bytes(&log.after(Cut { at: 6, rest: Rest::Some, seed }));
            assert!(some[2 * PAGE..3 * PAGE] == [4; PAGE] || some[2 * PAGE..3 * PAGE] == [0; PAGE]);
            seen.insert((some[0], some[PAGE], some[2 * PAGE]));
            let torn = bytes(&log.after(Cut { at: 6, rest: Rest::Torn, seed }));
            for sector in torn[2 * PAGE..3 * PAGE].chunks(SECTOR) {
                assert!(sector == [4; SECTOR] || sector == [0; SECTOR]);
            }
            halves += usize::from(torn[2 * PAGE] != torn[3 * PAGE - 1]);
        }
        assert_eq!(seen.len(), 8);
        assert!(halves > 0);
    }
}
