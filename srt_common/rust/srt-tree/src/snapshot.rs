//! The versioned image of one tree: its sequences, whatever order they came in.
//!
//! * Canonical: sequences by id, each as the longest runs of sampled and of observed tokens. Equal
//!   sets of appends give equal images. The prompt's text and which positions were used are not
//!   part of it.
//! * Layout, little-endian: `SRTT`, version u16, prompt key, number of sequences u32, sequences,
//!   CRC-32 of all that u32. A sequence: id u64, policy version u32, lane u8, engine id u32, number
//!   of runs u32, runs. A run: flags u8, number of tokens u32, soft bytes u32, packed tokens,
//!   packed soft targets. A sequence that goes on without its beginning has a first run of flag 2
//!   and of as many tokens as are missing, with no bytes.
//! * The image of `LEARNED_KEY` is that of the tables (`learned`).
//! * Loading checks everything before it changes anything, and lengths before it allocates.

use crate::error::{Result, TreeError};
use crate::forest::{Forest, Update};
use crate::learned::{self, LEARNED_KEY};
use crate::origin::{MAX_SEQUENCE_TOKENS, Origin, PromptKey, SequenceId};
use crate::packed::{Packed, Packer};
use crate::tree::{Sequence, Tree};

/// Version of the image written; no other is read.
pub const SNAPSHOT_VERSION: u16 = 1;

const MAGIC: &[u8; 4] = b"SRTT";
pub(crate) const FLAG_OBSERVATION: u8 = 1;
const FLAG_MISSING: u8 = 2;

impl Forest {
    /// The image of a tree; none when it is not held. That of the tables for `LEARNED_KEY`; none
    /// while they have learned nothing.
    #[must_use]
    pub fn snapshot(&self, key: PromptKey) -> Option<Vec<u8>> {
        if key == LEARNED_KEY {
            return learned::image(&self.tables);
        }
        let tree = self.tree(key)?;
        let sequences = tree.sorted_sequences();
        let mut image = begun(key, sequences.len());
        for sequence in sequences {
            let Some(origin) = sequence.origin else { continue };
            let runs = runs(tree, sequence);
            write_sequence(sequence.id, origin, sequence.start, &runs, &mut image);
        }
        Some(ended(image))
    }

    /// Merges an image: its sequences extend as by `extend`, oldest policy version first. Returns
    /// its prompt key.
    ///
    /// # Errors
    /// When the image is not whole, not of this version or not canonical.
    pub fn load_snapshot(&mut self, image: &[u8]) -> Result<PromptKey> {
        if learned::is_image(image) {
            learned::merge(&mut self.tables, image)?;
            return Ok(LEARNED_KEY);
        }
        let (key, updates) = parse(image)?;
        for update in &updates {
            let goes_on_alone = self.held(key, update.sequence_id) == 0;
            self.extend_from(update, goes_on_alone)?;
        }
        Ok(key)
    }
}

/// Cuts an image into images of at most `max_tokens` tokens each, at least one. Loaded one after
/// another they do what the whole one does, and others may use the forest in between. The image of
/// the tables stays whole.
///
/// # Errors
/// As `Forest::load_snapshot`, for images of trees.
pub fn split_snapshot(image: &[u8], max_tokens: usize) -> Result<Vec<Vec<u8>>> {
    if learned::is_image(image) {
        return Ok(vec![image.to_vec()]);
    }
    let mut parts = Vec::new();
    for update in parse(image)?.1 {
        let mut items = Packed::parse(update.tokens, update.soft)?.iter();
        let mut start = update.offset as usize;
        loop {
            let mut run = Packer::default();
            items
                .by_ref()
                .take(max_tokens.max(1))
                .for_each(|(it, row)| run.push(it, row.as_slice()));
            if run.is_empty() {
                break;
            }
            let (id, num_tokens) = (update.sequence_id, run.len());
            let runs = [(if update.is_observation { FLAG_OBSERVATION } else { 0 }, run)];
            let mut part = begun(update.prompt_key, 1);
            write_sequence(id, update.origin, start, &runs, &mut part);
            parts.push(ended(part));
            start += num_tokens;
        }
    }
    Ok(parts)
}

fn begun(key: PromptKey, num_sequences: usize) -> Vec<u8> {
    let mut image = MAGIC.to_vec();
    image.extend(SNAPSHOT_VERSION.to_le_bytes());
    image.extend(key.0);
    image.extend((num_sequences as u32).to_le_bytes());
    image
}

fn ended(mut image: Vec<u8>) -> Vec<u8> {
    let checksum = crc32fast::hash(&image);
    image.extend(checksum.to_le_bytes());
    image
}

fn write_sequence(
    id: SequenceId,
    origin: Origin,
    num_missing: usize,
    runs: &[(u8, Packer)],
    image: &mut Vec<u8>,
) {
    image.extend(id.0.to_le_bytes());
    image.extend(origin.policy_version.to_le_bytes());
    image.push(origin.lane as u8);
    image.extend(origin.engine_id.to_le_bytes());
    image.extend((runs.len() as u32 + u32::from(num_missing > 0)).to_le_bytes());
    if num_missing > 0 {
        image.push(FLAG_MISSING);
        image.extend((num_missing as u32).to_le_bytes());
        image.extend(0_u32.to_le_bytes());
    }
    for (flags, run) in runs {
        image.push(*flags);
        image.extend((run.len() as u32).to_le_bytes());
        image.extend((run.soft.len() as u32).to_le_bytes());
        image.extend(&run.tokens);
        image.extend(&run.soft);
    }
}

/// The longest runs of equal flags.
pub(crate) fn runs(tree: &Tree, sequence: &Sequence) -> Vec<(u8, Packer)> {
    let mut runs: Vec<(u8, Packer)> = Vec::new();
    for block in tree.blocks_of(sequence) {
        for index in 0..block.len() {
            let flags = if block.is_observation(index) { FLAG_OBSERVATION } else { 0 };
            if runs.last().is_none_or(|(its, _)| *its != flags) {
                runs.push((flags, Packer::default()));
            }
            if let Some((_, run)) = runs.last_mut() {
                run.push(block.tokens[index], block.soft_row(index));
            }
        }
    }
    runs
}

fn refuse<T>(value: impl std::fmt::Display, allowed: &str) -> Result<T> {
    Err(TreeError::invalid("image", value, allowed))
}

/// Reads a checked image as updates, oldest policy version first.
fn parse(image: &[u8]) -> Result<(PromptKey, Vec<Update<'_>>)> {
    let Some((body, checksum)) = image.split_last_chunk::<4>() else {
        return refuse(format!("{} bytes", image.len()), "a whole snapshot");
    };
    let mut reader = Reader { rest: body };
    if reader.take(MAGIC.len())? != MAGIC {
        return refuse("something else", "a snapshot of a tree");
    }
    let version = u16::from_le_bytes(reader.array()?);
    if version != SNAPSHOT_VERSION {
        return refuse(format!("of version {version}"), "of version 1");
    }
    if crc32fast::hash(body) != u32::from_le_bytes(*checksum) {
        return refuse("damaged", "a snapshot whose checksum holds");
    }
    let key = PromptKey(reader.array()?);
    let mut updates = Vec::new();
    let mut last = None;
    for _ in 0..reader.u32()? {
        let id = SequenceId(u64::from_le_bytes(reader.array()?));
        if last.replace(id) >= Some(id) {
            return refuse("out of order", "sequences by ascending id");
        }
        read_sequence(&mut reader, key, id, &mut updates)?;
    }
    if !reader.rest.is_empty() {
        return refuse(format!("{} bytes too long", reader.rest.len()), "a whole snapshot");
    }
    updates.sort_by_key(|it| (it.origin.policy_version, it.sequence_id, it.offset));
    Ok((key, updates))
}

fn read_sequence<'a>(
    reader: &mut Reader<'a>,
    prompt_key: PromptKey,
    sequence_id: SequenceId,
    updates: &mut Vec<Update<'a>>,
) -> Result<()> {
    let policy_version = reader.u32()?;
    let lane = reader.take(1)?[0].try_into()?;
    let origin = Origin { policy_version, lane, engine_id: reader.u32()? };
    let mut offset = 0;
    let mut last = None;
    for _ in 0..reader.u32()? {
        let flags = reader.take(1)?[0];
        let (num_tokens, num_soft_bytes) = (reader.u32()? as usize, reader.u32()? as usize);
        if flags == FLAG_MISSING && last.is_none() && num_soft_bytes == 0 && num_tokens > 0 {
            (offset, last) = (num_tokens as u64, Some(flags));
            continue;
        }
        let tokens = reader.take(num_tokens.saturating_mul(3))?;
        let soft = reader.take(num_soft_bytes)?;
        Packed::parse(tokens, soft)?;
        if flags > FLAG_OBSERVATION || last.replace(flags) == Some(flags) || num_tokens == 0 {
            return refuse("not canonical", "runs of alternating flags 0 and 1");
        }
        let is_observation = flags == FLAG_OBSERVATION;
        updates.push(Update {
            prompt_key,
            sequence_id,
            offset,
            origin,
            is_observation,
            tokens,
            soft,
        });
        offset += num_tokens as u64;
    }
    if last == Some(FLAG_MISSING) || !(1..=u64::from(MAX_SEQUENCE_TOKENS)).contains(&offset) {
        return refuse(format!("a sequence of {offset} tokens"), "sequences of 1 to 2^28 tokens");
    }
    Ok(())
}

/// Cuts fields off the front.
struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8]> {
        let Some((taken, rest)) = self.rest.split_at_checked(len) else {
            return refuse("cut short", "a whole snapshot");
        };
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    fn u32(&mut self) -> Result<u32> {
        self.array().map(u32::from_le_bytes)
    }
}
