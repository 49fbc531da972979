//! Writing GGUF files from model directories, matrices in few bits.

use super::{FINGERPRINT, GENERATION_CONFIG, SHIFT_LOGITS, TOKENIZER, TOKENIZER_CONFIG, is_shuffled, name};
use crate::files;
use crate::model::weights::companions::tokenizer_config;
use crate::model::weights::directory::{check_is_model, config, directory};
use crate::model::weights::layout::{HEAD, Layout};
use crate::model::weights::made_for::{MadeFor, check_head};
use crate::model::weights::tensor_file::GGUF_ENTRIES;
use crate::model::weights::{convert::ConvertError, registry::Registry, save::save_with};
use crate::model::{backend::cpu::Cpu, config::llada::Config, error::LoadError, network::Outputs};
use candle_core::Tensor;
use candle_core::quantized::gguf_file::{self, Value};
use candle_core::quantized::{GgmlDType, QTensor};
use rayon::prelude::*;
use std::io::{BufWriter, Seek};
use std::{fmt, path::Path, sync::Arc};

/// How a matrix is stored: llama.cpp's formats, with the bits of a weight, scales included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// 4.5 bits, in blocks of 256.
    Q4K,
    /// 5.5 bits, in blocks of 256.
    Q5K,
    /// 6.6 bits, in blocks of 256.
    Q6K,
    /// 4.5 bits, in blocks of 32.
    Q4_0,
    /// 8.5 bits, in blocks of 32.
    Q8_0,
    /// 16 bits.
    F16,
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.of().1)
    }
}

impl Format {
    /// Every format, with llama.cpp's name and one line of help.
    pub fn words() -> [(&'static str, Self, &'static str); 6] {
        [Self::Q4K, Self::Q5K, Self::Q6K, Self::Q4_0, Self::Q8_0, Self::F16].map(|format| {
            let (_, name, help) = format.of();
            (name, format, help)
        })
    }

    /// The tensor library's format, llama.cpp's name, and one line of help.
    const fn of(self) -> (GgmlDType, &'static str, &'static str) {
        match self {
            Self::Q4K => (GgmlDType::Q4K, "q4_k", "4.5 bits per weight, in blocks of 256"),
            Self::Q5K => (GgmlDType::Q5K, "q5_k", "5.5 bits per weight, in blocks of 256"),
            Self::Q6K => (GgmlDType::Q6K, "q6_k", "6.6 bits per weight, in blocks of 256"),
            Self::Q4_0 => (GgmlDType::Q4_0, "q4_0", "4.5 bits per weight, in blocks of 32"),
            Self::Q8_0 => (GgmlDType::Q8_0, "q8_0", "8.5 bits per weight, in blocks of 32"),
            Self::F16 => (GgmlDType::F16, "f16", "16 bits per weight"),
        }
    }

    /// The format for rows of `width` numbers: this one, or the next finer one whose blocks fit.
    fn fitting(self, width: usize) -> GgmlDType {
        let formats = [self.of().0, GgmlDType::Q8_0, GgmlDType::F16];
        formats.into_iter().find(|format| width.is_multiple_of(format.block_size())).unwrap_or(GgmlDType::F32)
    }
}

/// Writes the model of a directory as one GGUF file, adapters folded in, with its quality head,
/// tokenizer and defaults. Matrices are stored in `format`, or in a finer one where its blocks do
/// not fit; gains, positions and the head in f32. The file says for which weights the head was
/// made. A head that was made for others is taken only with `allow_foreign_head`, with a warning.
///
/// Memory holds the content of the file, and a matrix in f32 per thread.
///
/// # Errors
/// When the model cannot be loaded, the head was made for other weights, or the file cannot be
/// written.
pub fn quantise(
    dir: &Path,
    prism_head: Option<&Path>,
    adapter: Option<&Path>,
    format: Format,
    out: &Path,
    allow_foreign_head: bool,
) -> Result<(), ConvertError> {
    check_is_model(dir)?;
    let (files, lora) = directory(dir, prism_head, adapter)?;
    let config = config(dir, &files)?;
    let (layout, features) = (Layout::llada(&config), config.family.features());
    let weights = Registry::of(&layout, files, lora, Arc::new(Cpu))?;
    check_head(&weights, allow_foreign_head)?;
    let backbone: Vec<(String, Vec<usize>)> = config.tensors().collect();
    let store = |(canonical, shape): &(String, Vec<usize>)| {
        let unnamed = || LoadError::stray(&dir.display().to_string(), canonical, "has no name in GGUF files");
        let name = name(canonical, config.names()).ok_or_else(unnamed)?;
        let mut weight = weights.weight(canonical)?;
        if config.rope && features.is_shuffled && is_shuffled(canonical) {
            weight = shuffled(&weight, config.head_dim())?;
        }
        // a matrix with one output judges: it stays in f32, as a head does
        let is_matrix = matches!(shape[..], [rows, _] if rows > 1) && !canonical.ends_with(".wpe.weight");
        let format = if is_matrix { format.fitting(shape[1]) } else { GgmlDType::F32 };
        Ok((name, QTensor::quantize(&weight, format)?))
    };
    let mut tensors = backbone.par_iter().map(store).collect::<Result<Vec<_>, LoadError>>()?;
    for (name, tensor) in weights.whole_head()?.into_iter().flatten() {
        let tensor = QTensor::quantize(&tensor, GgmlDType::F32).map_err(LoadError::from)?;
        tensors.push((format!("{HEAD}{name}"), tensor));
    }
    let mut metadata = metadata(&config, dir, weights.fingerprint()?, format)?;
    let made_for = MadeFor::of_head(&weights).map(|made_for| made_for.entries_beside(&weights)).transpose()?;
    let mut entries = weights.head_facts()?.added_to(made_for.unwrap_or_default());
    for (key, name) in GGUF_ENTRIES {
        metadata.extend(entries.remove(name).map(|text| (key.to_owned(), Value::String(text))));
    }
    let metadata: Vec<(&str, &Value)> = metadata.iter().map(|(key, value)| (key.as_str(), value)).collect();
    let tensors: Vec<(&str, &QTensor)> = tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
    save_with(out, |file| {
        let mut file = BufWriter::new(file);
        gguf_file::write(&mut file, &metadata, &tensors).map_err(std::io::Error::other)?;
        file.stream_position().map(|_| ()) // flushes
    })?;
    Ok(())
}

/// The rows of every head in llama.cpp's order, the inverse of [`super::interleaved`].
fn shuffled(weight: &Tensor, width: usize) -> candle_core::Result<Tensor> {
    let (rows, inner) = weight.dims2()?;
    weight.reshape((rows / width, 2, width / 2, inner))?.transpose(1, 2)?.contiguous()?.reshape((rows, inner))
}

/// The entries of the file's header beside its tensors.
fn metadata(
    config: &Config,
    dir: &Path,
    fingerprint: String,
    format: Format,
) -> Result<Vec<(String, Value)>, LoadError> {
    let number = |number: usize| {
        u32::try_from(number).map(Value::U32).map_err(|_| {
            let problem = format!("has a size of {number}; a GGUF file holds sizes below 2^32");
            LoadError::malformed(&dir.display(), problem)
        })
    };
    let architecture = config.family.name();
    let own = |key: &str| format!("{architecture}.{key}");
    let mut metadata = vec![
        ("general.architecture".to_owned(), Value::String(architecture.to_owned())),
        ("general.file_type_name".to_owned(), Value::String(format.to_string())),
        (own("embedding_length"), number(config.d_model)?),
        (own("block_count"), number(config.n_layers)?),
        (own("feed_forward_length"), number(config.mlp_hidden_size)?),
        (own("context_length"), number(config.max_sequence_length)?),
        (own("vocab_size"), number(config.vocab_size)?),
        (own("attention.head_count"), number(config.n_heads)?),
        (own("attention.head_count_kv"), number(config.n_kv_heads)?),
        (own("attention.layer_norm_rms_epsilon"), Value::F32(config.rms_norm_eps)),
        (own("attention.causal"), Value::Bool(false)),
        (SHIFT_LOGITS.to_owned(), Value::Bool(config.family.features().outputs == Outputs::Shifted)),
        ("tokenizer.ggml.mask_token_id".to_owned(), Value::U32(config.mask.0)),
        (FINGERPRINT.to_owned(), Value::String(fingerprint)),
    ];
    if config.rope {
        metadata.push((own("rope.freq_base"), Value::F32(config.rope_theta)));
        metadata.push((own("rope.dimension_count"), number(config.head_dim())?));
    }
    let ids = ["eos", "eot"].into_iter().zip(&config.ends).chain(["padding"].into_iter().zip(&config.pad));
    metadata.extend(ids.map(|(key, id)| (format!("tokenizer.ggml.{key}_token_id"), Value::U32(id.0))));
    for (key, file) in [(GENERATION_CONFIG, "generation_config.json"), (TOKENIZER, "tokenizer.json")] {
        let path = dir.join(file);
        if files::is_there(&path) {
            let text = files::read_text(&path).map_err(|cause| LoadError::unreadable(&path.display(), &cause))?;
            metadata.push((key.to_owned(), Value::String(text)));
        }
    }
    metadata.extend(tokenizer_config(dir)?.map(|text| (TOKENIZER_CONFIG.to_owned(), Value::String(text))));
    Ok(metadata)
}

#[cfg(test)]
mod tests {
    use super::super::interleaved;
    use super::*;
    use candle_core::Device;

    #[test]
    fn shuffling_is_undone_by_reading() {
        let rows = Tensor::arange(0u32, 16, &Device::Cpu).unwrap().reshape((16, 1)).unwrap();
        let rows = shuffled(&rows, 8).unwrap().flatten_all().unwrap().to_vec1::<u32>().unwrap();
        assert_eq!(rows[..8], [0, 4, 1, 5, 2, 6, 3, 7]);
        assert!((0..16).all(|row| rows[interleaved(row, 8)] as usize == row));
    }

    #[test]
    fn blocks_that_do_not_fit_get_finer() {
        assert_eq!(Format::Q4K.fitting(512), GgmlDType::Q4K);
        assert_eq!(Format::Q4K.fitting(128), GgmlDType::Q8_0);
        assert_eq!(Format::Q8_0.fitting(344), GgmlDType::F16);
    }
}
