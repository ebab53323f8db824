//! The image of what a forest has learned while drafting: how far to trust each kind of evidence.
//!
//! * It travels beside the trees' snapshots, as that of `LEARNED_KEY`, so a restarted engine is warm
//!   in its tables too, and images of trees do not depend on them.
//! * Merging keeps, cell by cell, what rests on more observations: harmless when repeated, and the
//!   same in any order.
//! * Layout, little-endian: `SRTL`, version u16, number of cells u32, per cell sum and count as f64,
//!   CRC-32 of all that u32.

use crate::error::{Result, TreeError};
use crate::origin::PromptKey;
use crate::tables::{Mean, Tables};

/// Stands for the tables where images of trees are asked for by key; no prompt has it.
pub const LEARNED_KEY: PromptKey = PromptKey([0xff; 16]);

const MAGIC: &[u8; 4] = b"SRTL";
const VERSION: u16 = 1;
const HEADER_BYTES: usize = 10;
const CELL_BYTES: usize = 16;

/// The image of tables; none while they have learned nothing.
pub(crate) fn image(tables: &Tables) -> Option<Vec<u8>> {
    if tables.cells().all(|cell| cell.count == 0.0) {
        return None;
    }
    let mut image = MAGIC.to_vec();
    image.extend(VERSION.to_le_bytes());
    image.extend((tables.cells().count() as u32).to_le_bytes());
    for cell in tables.cells() {
        image.extend(cell.sum.to_le_bytes());
        image.extend(cell.count.to_le_bytes());
    }
    let checksum = crc32fast::hash(&image);
    image.extend(checksum.to_le_bytes());
    Some(image)
}

/// Whether bytes claim to be the image of tables.
pub(crate) fn is_image(image: &[u8]) -> bool {
    image.starts_with(MAGIC)
}

/// Takes over every cell that rests on more observations than the one here.
pub(crate) fn merge(tables: &mut Tables, image: &[u8]) -> Result<()> {
    let cells = parse(image, tables.cells().count())?;
    for (cell, other) in tables.cells_mut().zip(cells) {
        if (other.count, other.sum) > (cell.count, cell.sum) {
            *cell = other;
        }
    }
    Ok(())
}

fn parse(image: &[u8], num_cells: usize) -> Result<Vec<Mean>> {
    let refuse = |value: String, allowed: &str| Err(TreeError::invalid("image", value, allowed));
    let len = HEADER_BYTES + num_cells * CELL_BYTES + 4;
    let Some((body, checksum)) = image.split_last_chunk::<4>().filter(|_| image.len() == len)
    else {
        return refuse(format!("{} bytes", image.len()), "the tables of this version");
    };
    let header = [&VERSION.to_le_bytes()[..], &(num_cells as u32).to_le_bytes()].concat();
    if body[MAGIC.len()..HEADER_BYTES] != header {
        return refuse("of another version".into(), "of version 1");
    }
    if crc32fast::hash(body) != u32::from_le_bytes(*checksum) {
        return refuse("damaged".into(), "tables whose checksum holds");
    }
    let number = |bytes: &[u8]| {
        let mut array = [0; 8];
        array.copy_from_slice(bytes);
        f64::from_le_bytes(array)
    };
    let cells = body[HEADER_BYTES..].chunks_exact(CELL_BYTES);
    let cells: Vec<_> =
        cells.map(|it| Mean { sum: number(&it[..8]), count: number(&it[8..]) }).collect();
    let is_mean = |it: &Mean| it.count.is_finite() && (0.0..=it.count).contains(&it.sum);
    if cells.iter().all(is_mean) {
        Ok(cells)
    } else {
        refuse("not made of means".into(), "sums from 0 to their counts")
    }
}
