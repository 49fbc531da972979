//! Models: canvases go in, readings come out, and tensors stay inside.

mod backend;
mod causal;
mod config;
mod denoiser;
mod device;
mod error;
mod families;
mod interface;
mod load;
mod network;
mod toy;
mod weights;

pub use backend::cost::{Cost, Speed};
pub use backend::counts::Counts;
pub(crate) use backend::summary::{SummaryOptions, Vocabulary, sigmoid};
pub(crate) use backend::{cpu::summary::summarise, has_fused_gradients, is_parallel};
pub use causal::Causal;
pub use config::llada::{Config, Family};
pub use device::{CudaGraphs, Device, Devices, Precision, Threads, settle_threads, threads};
pub(crate) use error::words;
pub use error::{LoadError, ModelError, RowError};
pub(crate) use families::{head::HEAD_EPSILON, rope::Rope};
pub use interface::{
    Batch, Change, Defaults, Denoiser, Filter, Inspection, ModelSpec, PresetsText, Readings, Repair, Restriction, Row,
    Sampling,
};
pub use load::{LoadOptions, Source, load, load_in, load_with};
pub use toy::Toy;
pub(crate) use weights::companions::{CHAT_TEMPLATE, COMPANIONS, TEMPLATE_FOLDERS, copy_companions};
pub use weights::convert::{ConvertError, HeadEntry, annotate_head, put_together, take_apart};
pub(crate) use weights::convert::{save_adapter, with_judged};
pub use weights::directory::described;
pub(crate) use weights::directory::{PRISM_HEAD, SHARD_INDEX, ShardIndex, Tensors, backbone, entries_of, tensors};
pub use weights::gguf::vocabulary::{GgufVocabulary, Tokens};
pub use weights::gguf::write::{Format, quantise};
pub(crate) use weights::layout::head_tensors;
pub use weights::save::SaveError;
pub(crate) use weights::save::{Metadata, save_tensors};
pub(crate) use weights::tensor_file::BASE;
