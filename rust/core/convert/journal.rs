//! The journal of a conversion that can be resumed.
//!
//! Its pieces are numbered the same way whenever the same plan is carried out, so a journal is a fingerprint of the plan
//! and a slot for each piece: a digest of the source bytes and a digest of the bytes made from them. A piece is taken over
//! from an earlier run only if the source as read now and the output as it lies on the disk have these digests. Nothing
//! depends on the order in which the system wrote data and journal: a slot that is missing, torn or ahead of its data
//! costs encoding that piece again, never a wrong byte.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use super::plan::{Op, Plan, Source, View};
use super::source::read_exact_at;
use crate::error::{Error, Result};
use crate::gguf::atomic::{AtomicFile, write_all_at};

/// First bytes of a journal; the number changes whenever pieces are cut or digested in another way.
const MAGIC: &[u8; 16] = b"ggquant journal1";

const HEADER_BYTES: u64 = 48;
const SLOT_BYTES: u64 = 32;

/// The first half of a SHA-256.
pub(super) type Digest = [u8; 16];

/// What is known of a piece that has been written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Slot {
    pub(super) source: Digest,
    pub(super) result: Digest,
}

/// An open journal.
#[derive(Debug)]
pub(super) struct Journal {
    path: PathBuf,
    file: File,
}

/// Digest of source bytes, bound to the tensor and the element where they belong.
pub(super) fn source_digest(job: usize, first: usize, bytes: &[u8]) -> Digest {
    let place = [(job as u64).to_le_bytes(), (first as u64).to_le_bytes()];
    half(Sha256::new().chain_update(place.concat()).chain_update(bytes))
}

/// Digest of encoded bytes.
pub(super) fn result_digest(bytes: &[u8]) -> Digest {
    half(Sha256::new().chain_update(bytes))
}

fn half(hash: Sha256) -> Digest {
    let mut digest = Digest::default();
    digest.copy_from_slice(&hash.finalize()[..16]);
    digest
}

impl Journal {
    /// Opens the outputs of `plan` and its journal, as an earlier run left them or anew.
    ///
    /// # Errors
    /// Those of [`AtomicFile::resume`], and `Io`.
    pub(super) fn open(plan: &Plan, overwrite: bool) -> Result<(Vec<AtomicFile>, Option<Self>)> {
        let Some(first) = plan.outputs.first() else { return Ok((Vec::new(), None)) };
        let fingerprint = fingerprint(plan);
        let tag: String = fingerprint[..8].iter().map(|byte| format!("{byte:02x}")).collect();
        let path = beside(&first.path, &format!(".{tag}.journal"));
        let known = path.is_file();
        let mut files = Vec::with_capacity(plan.outputs.len());
        for output in &plan.outputs {
            let partial = beside(&output.path, &format!(".{tag}.part"));
            forget_others(&output.path, &tag)?;
            if known && !partial.exists() && is_finished(&output.path, &output.layout.header, output.layout.file_len) {
                // The earlier run ended between giving the first and the last of the outputs their names.
                std::fs::rename(&output.path, &partial)
                    .map_err(|e| Error::io(&output.path, "take the finished file up again", e))?;
            }
            files.push(AtomicFile::resume(&output.path, &partial, overwrite)?);
        }
        let failed = |e| Error::io(&path, "open the journal of the conversion", e);
        let file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path).map_err(failed)?;
        let header = [MAGIC.as_slice(), &fingerprint].concat();
        let mut found = vec![0; header.len()];
        if read_exact_at(&file, &mut found, 0).is_err() || found != header {
            file.set_len(0).and_then(|()| write_all_at(&file, &header, 0)).map_err(failed)?;
        }
        Ok((files, Some(Self { path, file })))
    }

    /// What an earlier run noted about piece `number`. Slots never written read as zeros, which are no piece's digests.
    pub(super) fn slot(&self, number: usize) -> Option<Slot> {
        let mut bytes = [0; SLOT_BYTES as usize];
        read_exact_at(&self.file, &mut bytes, Self::place(number)).ok()?;
        let (mut source, mut result) = (Digest::default(), Digest::default());
        source.copy_from_slice(&bytes[..16]);
        result.copy_from_slice(&bytes[16..]);
        Some(Slot { source, result })
    }

    /// Notes that piece `number` is written.
    pub(super) fn note(&self, number: usize, slot: Slot) -> Result<()> {
        write_all_at(&self.file, &[slot.source, slot.result].concat(), Self::place(number))
            .map_err(|e| Error::io(&self.path, "write the journal of the conversion", e))
    }

    /// Removes the journal of a finished conversion.
    pub(super) fn remove(self) {
        // Best effort: the outputs are complete, and a journal that stays is taken for what it is by the next run.
        let _ = std::fs::remove_file(&self.path);
    }

    fn place(number: usize) -> u64 {
        HEADER_BYTES + number as u64 * SLOT_BYTES
    }
}

/// Whether `path` has the length and the header of a finished output.
fn is_finished(path: &Path, header: &[u8], len: u64) -> bool {
    let mut found = vec![0; header.len()];
    let same = |file: File| -> io::Result<bool> {
        read_exact_at(&file, &mut found, 0)?;
        Ok(file.metadata()?.len() == len && found == header)
    };
    File::open(path).and_then(same).unwrap_or(false)
}

/// A hidden name in the folder of `target`.
fn beside(target: &Path, suffix: &str) -> PathBuf {
    target.with_file_name(format!("{}{suffix}", prefix(target)))
}

fn prefix(target: &Path) -> String {
    format!(".ggquant-{}", target.file_name().unwrap_or_default().to_string_lossy())
}

/// Removes what earlier runs left for `target` that were made from another plan: it could never be used again.
fn forget_others(target: &Path, tag: &str) -> Result<()> {
    let folder = target.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let Ok(entries) = std::fs::read_dir(folder) else { return Ok(()) };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Some(rest) = name.to_str().and_then(|name| name.strip_prefix(&prefix(target))) else { continue };
        let other =
            rest.strip_prefix('.').and_then(|rest| rest.strip_suffix(".part").or(rest.strip_suffix(".journal")));
        if other.is_some_and(|other| other.len() == 16 && other != tag && other.bytes().all(|b| b.is_ascii_hexdigit()))
        {
            let path = entry.path();
            std::fs::remove_file(&path).map_err(|e| Error::io(&path, "remove what another conversion left", e))?;
        }
    }
    Ok(())
}

/// Hash of everything that decides the bytes besides the source's contents, which are digested piece by piece.
fn fingerprint(plan: &Plan) -> [u8; 32] {
    let mut hash = Sha256::new_with_prefix(MAGIC);
    let mut add = |bytes: &[u8]| {
        hash.update((bytes.len() as u64).to_le_bytes());
        hash.update(bytes);
    };
    add(env!("CARGO_PKG_VERSION").as_bytes());
    for output in &plan.outputs {
        add(output.path.as_os_str().as_encoded_bytes());
        add(&output.layout.header);
        for tensor in &output.tensors {
            add(format!("{} {:?} {} {}", tensor.name, tensor.shape, tensor.ty, tensor.intermediate).as_bytes());
            match &tensor.source {
                Source::Inline(bytes) => add(bytes),
                Source::Views { views, ops } => {
                    views.iter().for_each(|view| add(view_text(view).as_bytes()));
                    for op in ops {
                        add(op_text(*op).as_bytes());
                    }
                }
                Source::PackedMxfp4 { codes, scales } => {
                    add(b"packed");
                    [codes, scales].into_iter().for_each(|view| add(view_text(view).as_bytes()));
                }
            }
            if let Some(imatrix) = &tensor.imatrix {
                let bytes: Vec<u8> = imatrix.values.iter().flat_map(|value| value.to_le_bytes()).collect();
                add(&imatrix.rows_per_expert.to_le_bytes());
                add(&bytes);
            }
        }
    }
    hash.finalize().into()
}

fn view_text(view: &View) -> String {
    format!("{} {:?}", view.dtype, (view.offset, &view.shape, &view.strides, view.start))
}

fn op_text(op: Op) -> String {
    match op {
        Op::Add(c) => format!("add {:08x}", c.to_bits()),
        Op::Mul(c) => format!("mul {:08x}", c.to_bits()),
        other => format!("{other:?}"),
    }
}
