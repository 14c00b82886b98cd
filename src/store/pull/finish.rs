//! A pull ends: the image gets its reference, or nothing is kept.

use std::sync::PoisonError;

use tracing::field::Empty;

use super::{OP, Pull, Shared};
use crate::content::Expected;
use crate::digest::Digest;
use crate::error::{Error, ErrorKind, Result};
use crate::metadata::{ImageLayer, ImageRow};
use crate::progress::{Context, Report};
use crate::span::verb;
use crate::store::BlobPolicy;
use crate::store::image::document::check_layer_type;
use crate::store::image::{Image, check_reference, no_image};
use crate::store::import::{Made, row};
use crate::store::intake::Intake;
use crate::store::source::Files;

/// What came of pulling an image.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Pulled {
    /// The image, under its reference.
    pub image: Image,
    /// How many of its layers were unpacked by this pull; the others were there.
    pub unpacked: usize,
    /// The blobs of its layers that the store does not hold: those of layers that were there, and those whose plain bytes came instead.
    pub lacking: Vec<Digest>,
    /// What was skipped or clamped.
    pub report: Report,
}

impl Pull {
    /// Gives the image its reference, which is moved if it is another image's. Durable when it returns. Layers whose bytes came by other
    /// ways meanwhile are unpacked first.
    ///
    /// # Errors
    /// `NotFound` where bytes are missing, `Unsupported`, with the media type, where these had to be plain ones; `InvalidArgument` for a
    /// reference that cannot be one; those of [`PullIngest::finish`](super::PullIngest::finish). What came is kept for the next pull.
    pub fn finish(self, reference: &str, cx: &Context<'_>) -> Result<Pulled> {
        let digest = &self.0.chosen.manifest.digest;
        let verb = verb!("pull", reference = reference, digest = %digest, layers = self.0.parts.len(), unpacked = Empty);
        verb.run(|span| {
            let pulled = self.0.finish(reference, cx)?;
            span.record("unpacked", pulled.unpacked);
            Ok(pulled)
        })
    }

    /// Gives the pull up, and deletes what it brought and nobody else needs, the beginnings of layers included.
    ///
    /// # Errors
    /// `Io`: what could not be deleted goes with a later collection.
    pub fn abort(self) -> Result<()> {
        let shared = &*self.0;
        shared.wait();
        let (chains, blobs) = {
            let mut landing = shared.landing();
            landing.places.iter_mut().for_each(|place| drop(place.filled.take()));
            landing.whole = None;
            (std::mem::take(&mut landing.chains), std::mem::take(&mut landing.brought))
        };
        shared.store.with_reserve(|| {
            let transaction = shared.store.metadata().write()?;
            if let Some(lease) = transaction.lease_by_name(&shared.lease_name())? {
                transaction.remove_lease(lease.id)?;
            }
            transaction.commit()
        })?;
        shared.release()?;
        for part in &shared.parts {
            shared.store.content().forget(part.digest())?;
            shared.store.content().forget(&part.diff_id.0)?;
        }
        let made = Made { chains, blobs };
        shared.store.with_reserve(|| shared.store.take_back(&made))
    }
}

impl Shared {
    fn finish(&self, reference: &str, cx: &Context<'_>) -> Result<Pulled> {
        check_reference(ErrorKind::InvalidArgument, reference)?;
        self.land_all(cx)?;
        self.name_whole(cx)?;
        let (image, lacking) = self.name(reference, cx)?;
        let (unpacked, brought, report) = {
            let mut landing = self.landing();
            (landing.unpacked, std::mem::take(&mut landing.brought), std::mem::take(&mut landing.report))
        };
        self.release()?;
        // By policy, blobs that the image does not name.
        let made = Made { chains: Vec::new(), blobs: brought };
        if let Err(error) = self.store.with_reserve(|| self.store.take_back(&made)) {
            tracing::warn!(%error, "what a pull left could not be deleted; the collection will");
        }
        Ok(Pulled { image, unpacked, lacking, report })
    }

    /// Ends the lease that would end with the process.
    fn release(&self) -> Result<()> {
        let lease = self.lease.lock().unwrap_or_else(PoisonError::into_inner).take();
        lease.map_or(Ok(()), |lease| lease.release())
    }

    /// Names the layers that are not named yet.
    fn land_all(&self, cx: &Context<'_>) -> Result<()> {
        loop {
            self.advance(cx)?;
            let next = self.wait();
            let Some(part) = self.parts.get(next) else { return Ok(()) };
            if self.landing().places.get(next).is_some_and(|place| place.blob.is_some()) {
                // Another thread had the turn, and failed.
                continue;
            }
            // Somebody may have brought it without this.
            let mut intake = self.intake(cx)?;
            match part.present(&mut intake)? {
                Some(blob) => self.arrive(next, &blob, part.needs_plain(), None, cx)?,
                None => {
                    check_layer_type(&part.reference.descriptor.media_type).map_err(|error| error.at(part.digest().to_string()))?;
                    return Err(Error::new(ErrorKind::NotFound, OP)
                        .at(part.digest().to_string())
                        .because("the bytes of this layer have not come"));
                }
            }
        }
    }

    fn name(&self, reference: &str, cx: &Context<'_>) -> Result<(Image, Vec<Digest>)> {
        let (store, mut intake) = (&self.store, self.intake(cx)?);
        let (mut layers, mut lacking, mut plain) = (Vec::new(), Vec::new(), Vec::new());
        for (index, part) in self.parts.iter().enumerate() {
            let descriptor = part.reference.descriptor.clone();
            let came = self.landing().places.get(index).and_then(|place| place.blob.clone());
            let has_blob = match came {
                Some((blob, true)) => {
                    plain.push(blob.digest().clone());
                    // An uncompressed layer may have come so, too.
                    blob.digest() == part.digest()
                }
                Some((_, false)) => true,
                None => self.prove_present(index, &mut intake, cx)?,
            };
            if !has_blob {
                lacking.push(descriptor.digest.clone());
            }
            layers.push(ImageLayer { descriptor, diff_id: part.diff_id.clone(), chain_id: part.chain_id.clone() });
        }
        if self.policy == BlobPolicy::Drop {
            let dropped = layers.iter().filter(|layer| !lacking.contains(&layer.descriptor.digest));
            store.keep_manifests(&mut intake, dropped, &self.limits, cx)?;
        }
        for (descriptor, bytes) in &self.documents {
            intake.add(&Expected::from(descriptor), descriptor.media_type.as_str(), &mut bytes.as_slice())?;
        }
        self.landing().brought.append(&mut intake.into_brought());
        let mut row = row(&self.chosen, layers, &lacking, self.policy);
        if self.policy == BlobPolicy::Keep {
            row.blobs.extend(plain.into_iter().filter(|digest| !row.blobs.contains(digest)).collect::<Vec<_>>());
        }
        let transaction = store.write_durably()?;
        transaction.put_image(&ImageRow { reference: reference.to_owned(), ..row })?;
        let row = transaction.image(reference)?;
        if let Some(lease) = transaction.lease_by_name(&self.lease_name())? {
            transaction.remove_lease(lease.id)?;
        }
        transaction.commit()?;
        let image = store.describe(row.ok_or_else(|| no_image(OP, reference))?)?;
        Ok((image, lacking))
    }

    /// Of a layer that was there before: whether the store holds its blob, which is found to be the layer then.
    fn prove_present(&self, index: usize, intake: &mut Intake<'_>, cx: &Context<'_>) -> Result<bool> {
        let Some(part) = self.parts.get(index).filter(|part| !part.needs_plain()) else { return Ok(false) };
        let descriptor = &part.reference.descriptor;
        let Some(blob) = intake.present(&Expected::from(descriptor), descriptor.media_type.as_str())? else { return Ok(false) };
        let below = index.checked_sub(1).and_then(|below| self.parts.get(below));
        let parent = match below {
            Some(below) => self.store.metadata().read()?.layer(&below.chain_id)?,
            None => None,
        };
        if below.is_some() && parent.is_none() {
            return Err(Files::lacks(&part.reference));
        }
        self.land(part, parent.as_ref(), blob, false, None, cx).map(|_| true)
    }
}
