//! The journal of a conversion that can be resumed.
//!
//! Its pieces are numbered the same way whenever the same plan is carried out, so a journal is a fingerprint of the plan
//! and a slot for each piece: a digest of the source bytes and a digest of the bytes made from them. A piece is taken over
//! from an earlier run only if the source as read now and the output as it lies on the disk have these digests. Nothing
//! depends on the order in which the system wrote data and journal: a slot that is missing, torn or ahead of its data
//! costs encoding that piece again, never a wrong byte.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use super::plan::{Op, OutputFile, Plan, Source, View};
use super::source::read_exact_at;
use crate::error::{Error, Result};
use crate::gguf::atomic::{AtomicFile, check_target, write_all_at};
use crate::gguf::hidden::{self, TAG_LEN, beside};

/// First bytes of a journal; the number changes whenever pieces are cut or digested in another way.
const MAGIC: &[u8; 16] = b"ggquant journal1";

/// Importances that are hashed at once.
const IMATRIX_CHUNK: usize = 1 << 16;

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
    /// Opens the outputs of `plan` and its journal, as an earlier run left them or anew. What was left for the same outputs
    /// by other plans is removed: it could never be used again.
    ///
    /// # Errors
    /// Those of [`AtomicFile::resume`], and `Io`; in particular if another process makes one of these outputs so that it can
    /// be resumed.
    pub(super) fn open(plan: &Plan<'_>, overwrite: bool) -> Result<(Vec<AtomicFile>, Option<Self>)> {
        let Some(first) = plan.outputs.first() else { return Ok((Vec::new(), None)) };
        let fingerprint = fingerprint(plan);
        let tag = tag(&fingerprint);
        let path = beside(&first.path, &format!("{tag}.journal"));
        let known = path.is_file();
        let partials: Vec<_> = plan.outputs.iter().map(|o| beside(&o.path, &format!("{tag}.part"))).collect();
        // The earlier run may have ended between giving the first and the last of the outputs their names.
        let named = |output: &OutputFile<'_>, partial: &Path| {
            known && !partial.exists() && is_finished(&output.path, &output.layout.header, output.layout.file_len)
        };
        for (output, partial) in plan.outputs.iter().zip(&partials) {
            check_target(&output.path, overwrite || named(output, partial))?;
        }
        let file = hidden::open_locked(&path, &first.path)?;
        let mut files = Vec::with_capacity(plan.outputs.len());
        for (output, partial) in plan.outputs.iter().zip(&partials) {
            hidden::sweep(&output.path, Some(&tag))?;
            if named(output, partial) {
                std::fs::rename(&output.path, partial)
                    .map_err(|e| Error::io(&output.path, "take the finished file up again", e))?;
            }
            files.push(AtomicFile::resume(&output.path, partial, overwrite)?);
        }
        let failed = |e| Error::io(&path, "open the journal of the conversion", e);
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

/// What the names of the plan's hidden files carry.
fn tag(fingerprint: &[u8; 32]) -> String {
    fingerprint[..TAG_LEN / 2].iter().map(|byte| format!("{byte:02x}")).collect()
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

/// Hash of everything that decides the bytes besides the source's contents, which are digested piece by piece.
fn fingerprint(plan: &Plan<'_>) -> [u8; 32] {
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
                Source::Packed { parts, target, ops } => {
                    add(format!("{target:?}").as_bytes());
                    for part in parts {
                        part.views().for_each(|view| add(view_text(view).as_bytes()));
                        add(format!("{:?}", part.facts()).as_bytes());
                    }
                    for op in ops {
                        add(op_text(*op).as_bytes());
                    }
                }
            }
            add(format!("{:?}", tensor.lattice).as_bytes());
            if let Some(imatrix) = &tensor.imatrix {
                add(&imatrix.rows_per_expert.to_le_bytes());
                // Some at a time: the whole may be large.
                for values in imatrix.values.chunks(IMATRIX_CHUNK) {
                    let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
                    add(&bytes);
                }
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::convert::{ImatrixPlan, Lattice, SourceType, TensorPlan, ggml_type};
    use crate::gguf::{Layout, Metadata, TensorSpec};

    /// Two outputs of one tensor each.
    fn plan(folder: &Path) -> Plan<'static> {
        let ty = ggml_type("F32").unwrap();
        let tensor = |name: &str, source| TensorPlan {
            name: name.into(),
            shape: vec![2, 4],
            ty,
            intermediate: ty,
            source,
            imatrix: None,
            lattice: Lattice::Off,
        };
        let view = View::whole("w", 64, SourceType::Block(crate::Format::F32), &[2, 4]);
        let views = Source::Views { views: vec![view], ops: vec![Op::Add(1.0)] };
        let output = |file: &str, tensor: TensorPlan<'static>| {
            let spec = TensorSpec { name: tensor.name.clone(), shape: vec![4, 2], ty };
            let layout = Layout::new(&Metadata::default(), &[spec]).unwrap();
            OutputFile { path: folder.join(file), layout, tensors: vec![tensor] }
        };
        let inline = Source::Inline(Arc::from(vec![0; 32]));
        Plan { outputs: vec![output("a", tensor("views", views)), output("b", tensor("inline", inline))] }
    }

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn slots_come_back_and_others_read_as_unknown() {
        let dir = tempfile::tempdir().unwrap();
        let plan = plan(dir.path());
        let slot = Slot { source: [3; 16], result: [4; 16] };
        let (outputs, journal) = Journal::open(&plan, false).unwrap();
        journal.unwrap().note(5, slot).unwrap();
        drop(outputs);
        let (_outputs, journal) = Journal::open(&plan, false).unwrap();
        let journal = journal.unwrap();
        assert_eq!(journal.slot(5), Some(slot));
        assert_eq!(journal.slot(4), Some(Slot { source: [0; 16], result: [0; 16] }));
        assert_eq!(journal.slot(6), None);
    }

    #[test]
    fn a_journal_that_is_none_is_begun_anew() {
        let dir = tempfile::tempdir().unwrap();
        let plan = plan(dir.path());
        let (_, journal) = Journal::open(&plan, false).unwrap();
        let journal = journal.unwrap();
        journal.note(0, Slot { source: [1; 16], result: [1; 16] }).unwrap();
        let path = journal.path.clone();
        drop(journal);
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[20] ^= 1; // in the fingerprint
        std::fs::write(&path, bytes).unwrap();
        let (_, journal) = Journal::open(&plan, false).unwrap();
        assert_eq!(journal.unwrap().slot(0), None);
        assert_eq!(std::fs::metadata(&path).unwrap().len(), HEADER_BYTES);
    }

    #[test]
    fn one_process_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let plan = plan(dir.path());
        let held = Journal::open(&plan, false).unwrap();
        assert!(Journal::open(&plan, false).unwrap_err().to_string().contains("another process"));
        // Another plan for one of the outputs would remove what the first is writing.
        let mut other = plan.clone();
        other.outputs.remove(0);
        assert!(Journal::open(&other, false).unwrap_err().to_string().contains("another process"));
        drop(held);
        Journal::open(&plan, false).unwrap();
    }

    #[test]
    fn what_another_plan_left_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let mut plan = plan(dir.path());
        drop(Journal::open(&plan, false).unwrap());
        let before = names(dir.path());
        plan.outputs[0].tensors[0].name = "other".into();
        drop(Journal::open(&plan, false).unwrap());
        let after = names(dir.path());
        assert_eq!(after.len(), 3, "a journal and two outputs");
        assert!(after.iter().all(|name| !before.contains(name)));
    }

    #[test]
    fn an_output_that_got_its_name_is_taken_up() {
        let dir = tempfile::tempdir().unwrap();
        let plan = plan(dir.path());
        let (mut outputs, journal) = Journal::open(&plan, false).unwrap();
        let first = outputs.remove(0);
        first.set_len(plan.outputs[0].layout.file_len).unwrap();
        first.write_all_at(&plan.outputs[0].layout.header, 0).unwrap();
        first.commit().unwrap();
        drop((outputs, journal));
        assert!(dir.path().join("a").exists());
        drop(Journal::open(&plan, false).unwrap());
        assert!(!dir.path().join("a").exists());
        // A file of another origin is not ours to take.
        std::fs::remove_file(beside(&plan.outputs[0].path, &format!("{}.part", tag(&fingerprint(&plan))))).unwrap();
        std::fs::write(dir.path().join("a"), b"theirs").unwrap();
        assert!(Journal::open(&plan, false).unwrap_err().to_string().contains("exists already"));
        assert_eq!(std::fs::read(dir.path().join("a")).unwrap(), b"theirs");
    }

    #[test]
    fn everything_that_decides_bytes_is_in_the_fingerprint() {
        type Change = fn(&mut Plan<'static>);
        let changes: [Change; 12] = [
            |_| {},
            |p| p.outputs[0].path.set_file_name("c"),
            |p| p.outputs[0].layout.header[9] ^= 1,
            |p| p.outputs[0].tensors[0].name.push('x'),
            |p| p.outputs[0].tensors[0].shape = vec![4, 2],
            |p| p.outputs[0].tensors[0].ty = ggml_type("F16").unwrap(),
            |p| p.outputs[0].tensors[0].intermediate = ggml_type("BF16").unwrap(),
            |p| change_view(p, |view, _| view.offset += 1),
            |p| change_view(p, |view, _| view.start += 1),
            |p| change_view(p, |_, ops| ops[0] = Op::Mul(1.0)),
            |p| p.outputs[0].tensors[0].imatrix = Some(ImatrixPlan { values: vec![1.0; 4].into(), rows_per_expert: 2 }),
            |p| p.outputs[0].tensors[0].imatrix = Some(ImatrixPlan { values: vec![1.0; 4].into(), rows_per_expert: 1 }),
        ];
        let folder = Path::new("folder");
        let prints: std::collections::HashSet<_> = changes
            .iter()
            .map(|change| {
                let mut plan = plan(folder);
                change(&mut plan);
                fingerprint(&plan)
            })
            .collect();
        assert_eq!(prints.len(), changes.len());
        assert_eq!(fingerprint(&plan(folder)), fingerprint(&plan(folder)));
    }

    fn change_view(plan: &mut Plan<'static>, change: fn(&mut View, &mut Vec<Op>)) {
        match &mut plan.outputs[0].tensors[0].source {
            Source::Views { views, ops } => change(&mut views[0], ops),
            _ => unreachable!("the first tensor has views"),
        }
    }
}
