//! Models: canvases go in, readings come out, and tensors stay inside. Out of scope: policies,
//! requests and time.

mod backend;
mod batch;
mod config;
mod denoiser;
mod device;
mod error;
mod families;
mod interface;
mod load;
mod network;
mod spec;
mod toy;
mod weights;

pub(crate) use backend::cpu::summary::summarise;
pub(crate) use backend::has_fused_gradients;
pub(crate) use backend::summary::{SummaryOptions, sigmoid};
pub(crate) use backend::vocabulary::Vocabulary;
pub use batch::{Batch, Filter, Restriction, Row, Sampling};
pub use config::llada::Config;
pub(crate) use config::prism::{HEAD_EPSILON, head_tensors};
pub use device::{Device, Precision, Threads, settle_threads, threads};
pub use error::{LoadError, ModelError};
pub(crate) use families::rope::Rope;
pub use interface::{Denoiser, Inspection};
pub use load::{Source, load, load_in};
pub use spec::{Defaults, ModelSpec};
pub use toy::Toy;
pub(crate) use weights::convert::save_adapter;
pub use weights::convert::{ConvertError, put_together, take_apart};
pub(crate) use weights::directory::{COMPANIONS, PRISM_HEAD, SHARD_INDEX, ShardIndex, Tensors, tensors};
pub(crate) use weights::fingerprint::BASE;
pub use weights::gguf::vocabulary::{GgufVocabulary, Tokens};
pub use weights::gguf::write::{Format, quantise};
pub use weights::save::SaveError;
pub(crate) use weights::save::{save, save_tensors};
