//! The ops on a CUDA device: typed launches of `kernels/` on one stream.
//!
//! Activations are f32 in device memory. Many rows meet weights on the tensor cores as f16, each row scaled by a power of two; a single
//! row meets quantised weights as int8 in blocks of 32 (half a step of `max / 127` per value) and other weights as f32. F32 weights
//! stay f32 everywhere. Attention takes q, k and v as f16, scores, sums and results as f32, the weights of a softmax as f16 on their way
//! to the values; for an F32 bundle (`Options::exact`) it is f32 throughout.
//! Failures of launches are remembered; `read` is where they surface, and after the first nothing is launched any more.
//! What one row becomes as int8 is made by the op that makes the row, and kept for the product that comes next; a norm of one row is
//! made by the product itself. A step that is repeated is recorded as a CUDA graph, with token and position in device memory.
//! Limits: compute capability 8.0 or newer; heads of up to 128 dimensions. Scratch memory grows with `alloc`, so no op allocates on a
//! model whose widths are multiples of 128.

mod attention;
mod ceiling;
mod device;
mod images;
mod launches;
mod ops;
mod pack;
mod probe;
mod product;
mod state;

pub use device::Options;
pub use probe::Probe;
pub use state::{Buf, Cache, Cuda, Kept, Matrix};
