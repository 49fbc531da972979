//! Models: canvases go in, readings come out, and tensors stay inside.

mod backend;
mod card;
mod causal;
mod config;
mod denoiser;
mod device;
mod error;
mod families;
mod frozen;
mod interface;
mod kept;
mod kv_store;
mod load;
mod network;
mod placing;
mod plan;
mod row;
mod sampling;
mod spec;
mod toy;
mod weights;

pub use backend::cost::{Cost, Speed};
pub use backend::counts::Counts;
pub(crate) use backend::summary::{SummaryOptions, Vocabulary, sigmoid};
pub(crate) use backend::{cpu::summary::summarise, has_fused_gradients, is_parallel};
#[cfg(test)]
pub(crate) use card::all as cards;
pub use causal::Causal;
pub use config::{family::Family, llada::Config};
pub(crate) use denoiser::NetworkDenoiser;
pub(crate) use device::free_on_gpu;
pub use device::{CudaGraphs, Device, Devices, Precision, Threads, settle_threads, threads};
pub use error::{LoadError, ModelError, RowError};
pub(crate) use families::{head::HEAD_EPSILON, rope::Rope};
pub use interface::{Batch, Denoiser, Inspection, KeptStates, Readings};
pub(crate) use load::load_frozen;
pub use load::{LoadOptions, Source, load, load_in, load_with};
pub use row::{Restriction, Row, SequenceName};
pub use sampling::{Change, Filter, Sampling};
pub use spec::{Defaults, Keeping, ModelSpec, PresetsText, Repair};
pub use toy::Toy;
pub(crate) use weights::companions::{CHAT_TEMPLATE, COMPANIONS, TEMPLATE_FOLDERS, copy_companions};
pub use weights::convert::{ConvertError, HeadEntry, annotate_head, put_together, take_apart};
pub(crate) use weights::convert::{save_adapter, with_judged};
pub use weights::directory::described;
pub(crate) use weights::directory::{
    HeadStart, PRISM_HEAD, SHARD_INDEX, ShardIndex, Tensors, backbone, entries_of, head_start, tensors, weights_digest,
};
pub use weights::gguf::vocabulary::{GgufVocabulary, Tokens};
pub use weights::gguf::write::{Format, quantise};
pub(crate) use weights::layout::head_tensors;
pub use weights::save::SaveError;
pub(crate) use weights::save::{Metadata, save_tensors};
pub(crate) use weights::tensor_file::BASE;
