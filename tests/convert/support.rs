//! Small sources and plans, and a look at what was written.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use ggquant::convert::{Lattice, OutputFile, Plan, Source, SourceType, TensorPlan, View, convert, ggml_type};
use ggquant::gguf::{GgmlType, Layout, Metadata, TensorSpec};
use ggquant::{Result, convert::Options};
use tempfile::TempDir;

/// A folder for sources and outputs of one test.
pub(crate) struct Folder(TempDir);

impl Folder {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub(crate) fn source(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }

    /// Names of all files, hidden ones included.
    pub(crate) fn names(&self) -> Vec<String> {
        let mut names: Vec<_> =
            std::fs::read_dir(self.0.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

pub(crate) fn ty(name: &str) -> GgmlType {
    ggml_type(name).unwrap()
}

pub(crate) fn dtype(name: &str) -> SourceType {
    name.parse().unwrap()
}

/// Little-endian bytes of floats.
pub(crate) fn f32_bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

/// Repeatable weights of an ordinary size.
pub(crate) fn weights(count: usize, seed: u32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(1);
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / 16_777_216.0 - 0.5
    };
    (0..count).map(|_| next() + next() * next() * 0.25).collect()
}

/// A tensor made of one whole tensor of a file, kept as the intermediate type `intermediate`.
pub(crate) fn tensor(name: &str, shape: &[u64], to: &str, intermediate: &str, view: View) -> TensorPlan<'static> {
    TensorPlan {
        name: name.into(),
        shape: shape.to_vec(),
        ty: ty(to),
        intermediate: ty(intermediate),
        source: Source::Views { views: vec![view], ops: vec![] },
        imatrix: None,
        lattice: Lattice::Off,
    }
}

pub(crate) fn inline(name: &str, shape: &[u64], to: &str, bytes: Vec<u8>) -> TensorPlan<'static> {
    TensorPlan {
        name: name.into(),
        shape: shape.to_vec(),
        ty: ty(to),
        intermediate: ty(to),
        source: Source::Inline(Arc::from(bytes)),
        imatrix: None,
        lattice: Lattice::Off,
    }
}

pub(crate) fn output(path: PathBuf, tensors: Vec<TensorPlan<'static>>) -> OutputFile<'static> {
    let specs: Vec<_> = tensors
        .iter()
        .map(|t| TensorSpec { name: t.name.clone(), shape: t.shape.iter().rev().copied().collect(), ty: t.ty })
        .collect();
    OutputFile { path, layout: Layout::new(&Metadata::default(), &specs).unwrap(), tensors }
}

pub(crate) fn plan(path: PathBuf, tensors: Vec<TensorPlan<'static>>) -> Plan<'static> {
    Plan { outputs: vec![output(path, tensors)] }
}

/// Options with so many threads.
pub(crate) fn threads(count: usize) -> Options<'static> {
    Options { run: ggquant::encode::Run { threads: Some(count), interrupt: None }, ..Options::default() }
}

/// Runs a plan that makes one tensor, and returns the tensor's bytes.
pub(crate) fn make(folder: &Folder, tensor: TensorPlan<'static>, count: usize) -> Result<Vec<u8>> {
    let path = folder.path(&format!("out-{count}-{}.gguf", folder.names().len()));
    let plan = plan(path, vec![tensor]);
    convert(&plan, threads(count), &())?;
    Ok(written(&plan.outputs[0], 0))
}

/// Bytes of a tensor in a written output. Checks the header and the file's length on the way.
pub(crate) fn written(output: &OutputFile<'_>, index: usize) -> Vec<u8> {
    let file = std::fs::read(&output.path).unwrap();
    assert_eq!(file.len() as u64, output.layout.file_len);
    assert!(file.starts_with(&output.layout.header));
    let start = output.layout.offsets[index] as usize;
    file[start..start + output.layout.nbytes[index] as usize].to_vec()
}

/// Whole-tensor view of F32 weights stored at `offset` of `file`.
pub(crate) fn whole(file: &Path, offset: u64, kind: &str, shape: &[u64]) -> View {
    View::whole(file, offset, dtype(kind), shape)
}
