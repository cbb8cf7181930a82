//! The operators that a model may have. A graph comes from a file, and libtorch has operators that open files, that hand out
//! memory which is not theirs, or that trust the indices they are given: so those are named here that may be called with anything.
//!
//! An operator is admitted if its kernels check what they are given, or `guard.rs` does. Those that are written in models and that
//! `torch.export` gives for networks are; each with its in-place form (`relu`, `relu_`). Not admitted are, by kind:
//!
//! - `*_backward`, `max_unpool*`: they take indices for granted that the forward operator made;
//! - `unsafe_*`, `as_strided*`, `set_*`, `resize_*`, `data`: they give views beside their memory, or views that autograd does not
//!   know of, so that what it saved can be changed behind its back;
//! - sparse, nested, quantised, complex-packed and device-specific ones (`cudnn_*`, `mkldnn_*`, `mps_*`): their kernels trust their
//!   callers, which are other operators;
//! - losses that index (`ctc_loss`, `nll_loss`), `segment_reduce`, `embedding_bag`, `histc`: no network needs them to predict;
//! - `from_file`, and what changes the state of the process: the random generator, the default number formats;
//! - overloads that write into a tensor they are given (`out`), which `plan.rs` sees by their schema.
//!
//! `fuzz_operators` calls each of them with nonsense.

use std::{collections::HashSet, sync::OnceLock};

/// Names without namespace and overload, by what they are for.
const ADMITTED: [&str; 13] = [
    // Numbers, one by one.
    "abs absolute acos acosh add addcdiv addcmul angle arccos arccosh arcsin arcsinh arctan arctan2 arctanh asin asinh atan atan2
     atanh bitwise_and bitwise_left_shift bitwise_not bitwise_or bitwise_right_shift bitwise_xor ceil clamp clamp_max clamp_min
     clip complex conj conj_physical copysign cos cosh deg2rad digamma div divide eq erf erfc erfinv exp exp2 expm1 fix
     float_power floor floor_divide fmax fmin fmod frac ge greater greater_equal gt heaviside hypot imag isclose isfinite isinf
     isnan isneginf isposinf isreal ldexp le lerp less less_equal lgamma log log10 log1p log2 logaddexp logaddexp2 logical_and
     logical_not logical_or logical_xor logit lt masked_fill maximum minimum mul multiply nan_to_num ne neg negative not_equal
     polar positive pow rad2deg real reciprocal remainder resolve_conj resolve_neg round rsqrt rsub sgn sign signbit sin sinc
     sinh special_digamma special_entr special_erf special_erfc special_erfcx special_erfinv special_exp2 special_expit
     special_expm1 special_gammaln special_i0 special_i0e special_i1 special_i1e special_log1p special_log_ndtr special_logit
     special_ndtr special_ndtri special_psi special_round special_sinc special_xlog1py special_xlogy sqrt square sub subtract tan tanh true_divide trunc where xlogy
     __and__ __iand__ __ilshift__ __ior__ __irshift__ __ixor__ __lshift__ __or__ __rshift__ __xor__",
    // Activations.
    "celu elu gelu glu hardshrink hardsigmoid hardswish hardtanh leaky_relu log_sigmoid log_sigmoid_forward log_softmax mish prelu
     relu relu6 rrelu selu sigmoid silu softmax softplus softshrink special_log_softmax special_softmax threshold",
    // Dropout, which does nothing in a model that is evaluated.
    "alpha_dropout dropout feature_alpha_dropout feature_dropout native_dropout",
    // Many numbers to one.
    "all amax amin aminmax any argmax argmin argsort count_nonzero cummax cummin cumprod cumsum dist equal frobenius_norm
     kthvalue linalg_matrix_norm linalg_norm linalg_vector_norm logcumsumexp logsumexp max mean median min mode msort nanmean
     nanmedian nanquantile nansum norm prod quantile sort special_logsumexp std std_mean sum sum_to_size topk trace var var_mean",
    // Other shapes of the same numbers.
    "adjoint alias atleast_1d atleast_2d atleast_3d broadcast_tensors broadcast_to chunk detach diag diag_embed diagflat diagonal
     dsplit expand expand_as flatten flip fliplr flipud hsplit mH mT matrix_H moveaxis movedim narrow numpy_T permute ravel
     repeat repeat_interleave reshape reshape_as roll rot90 select slice split split_with_sizes squeeze swapaxes swapdims t
     tensor_split tile transpose tril triu unbind unflatten unfold unsqueeze view view_as view_as_complex view_as_real vsplit
     alias_copy detach_copy diagonal_copy expand_copy narrow_copy permute_copy select_copy slice_copy split_copy
     split_with_sizes_copy squeeze_copy t_copy transpose_copy unbind_copy unfold_copy unsqueeze_copy view_as_complex_copy
     view_as_real_copy view_copy diagonal_scatter select_scatter slice_scatter",
    // Several tensors to one.
    "block_diag cartesian_prod cat column_stack concat concatenate dstack hstack meshgrid row_stack stack vstack",
    // Copies and number formats.
    "clone contiguous copy fill item lift lift_fresh lift_fresh_copy to type_as zero",
    // New tensors. What `empty` gives is cleared before anybody reads it.
    "arange bernoulli empty empty_like empty_permuted eye full full_like linspace logspace new_empty new_full new_ones new_zeros
     one_hot ones ones_like rand rand_like randint randint_like randn randn_like scalar_tensor tril_indices triu_indices zeros
     zeros_like",
    // Linear algebra.
    "addbmm addmm addmv addr baddbmm bilinear bmm cdist chain_matmul cosine_similarity cross det dot einsum ger inner inverse kron
     linalg_cholesky linalg_cross linalg_det linalg_diagonal linalg_eigh linalg_inv linalg_inv_ex linalg_matmul linalg_matrix_exp
     linalg_matrix_power linalg_multi_dot linalg_qr linalg_slogdet linalg_solve linalg_svd linalg_vecdot linear logdet matmul
     matrix_exp matrix_power mm mv outer pairwise_distance pdist slogdet svd tensordot vdot",
    // Places by number: the kernels compare every index with the size.
    "argwhere bucketize embedding gather index index_add index_copy index_fill index_put index_reduce index_select isin
     masked_scatter masked_select nonzero nonzero_numpy put scatter scatter_add scatter_reduce searchsorted take take_along_dim",
    // Convolutions, pools, recurrences, attention.
    "adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d
     avg_pool1d avg_pool2d avg_pool3d col2im conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d convolution
     gru gru_cell im2col lstm lstm_cell max_pool1d max_pool1d_with_indices max_pool2d max_pool2d_with_indices max_pool3d
     max_pool3d_with_indices rnn_relu rnn_relu_cell rnn_tanh rnn_tanh_cell scaled_dot_product_attention",
    // Normalisations.
    "batch_norm group_norm instance_norm layer_norm native_batch_norm native_group_norm native_layer_norm norm_except_dim renorm
     rms_norm",
    // Pictures, spectra, and what says something of shapes.
    "affine_grid_generator channel_shuffle constant_pad_nd grid_sampler grid_sampler_2d grid_sampler_3d pad pixel_shuffle
     pixel_unshuffle reflection_pad1d reflection_pad2d reflection_pad3d replication_pad1d replication_pad2d replication_pad3d
     upsample_bicubic2d upsample_bilinear2d upsample_linear1d upsample_nearest1d upsample_nearest2d upsample_nearest3d
     upsample_trilinear3d
     fft_fft fft_fft2 fft_fftfreq fft_fftn fft_fftshift fft_ifft fft_ifft2 fft_ifftn fft_ifftshift fft_irfft fft_irfft2
     fft_irfftn fft_rfft fft_rfft2 fft_rfftfreq fft_rfftn
     sym_constrain_range sym_constrain_range_for_size sym_is_contiguous sym_numel sym_size sym_storage_offset sym_stride is_nonzero",
];

/// Those with a leading underscore, which PyTorch keeps for itself, and why they are admitted nevertheless.
const INTERNAL: [(&str, &str); 18] = [
    ("_adaptive_avg_pool2d", "core ATen; checks as the public one"),
    ("_adaptive_avg_pool3d", "core ATen; checks as the public one"),
    ("_assert_async", "`torch._assert`; reads one element and checks that there is one"),
    ("_assert_scalar", "a condition on sizes that torch.export adds; takes no tensor"),
    ("_assert_tensor_metadata", "torch.export adds it to every `.to()`; reads no elements"),
    ("_local_scalar_dense", "core ATen's `item`; guarded: an empty tensor has no element"),
    ("_log_softmax", "core ATen; checks as the public one"),
    ("_native_batch_norm_legit", "what a batch norm is decomposed to; guarded: it does not check lengths"),
    ("_native_batch_norm_legit_no_training", "what a batch norm is decomposed to; guarded: it does not check lengths"),
    ("_softmax", "core ATen; checks as the public one"),
    ("_to_copy", "core ATen's `to`; a copy"),
    ("_unsafe_view", "decompositions of `matmul` have it; runs as `reshape`, which autograd knows to be a view"),
    ("_upsample_bicubic2d_aa", "`interpolate(antialias=True)`"),
    ("_upsample_bilinear2d_aa", "`interpolate(antialias=True)`"),
    ("_upsample_nearest_exact1d", "`interpolate(mode=\"nearest-exact\")`"),
    ("_upsample_nearest_exact2d", "`interpolate(mode=\"nearest-exact\")`"),
    ("_upsample_nearest_exact3d", "`interpolate(mode=\"nearest-exact\")`"),
    ("_weight_norm", "`torch.nn.utils.weight_norm`; guarded: it does not check shapes"),
];

/// What to do about an operator that is not admitted; stands once behind all of them.
pub(super) const HINT: &str = "write the model without it and export it again; if other people's models have it, too, ask the \
                        project to admit it, by its name (ARCHITECTURE.md says what it takes)";

/// Whether a model may have this operator of the namespace `aten`; `name` is without namespace and overload.
pub(super) fn is_admitted(name: &str) -> bool {
    static NAMES: OnceLock<HashSet<&str>> = OnceLock::new();
    let names = NAMES.get_or_init(|| all().collect());
    let functional = name.strip_suffix('_').filter(|twin| !twin.is_empty() && !twin.ends_with('_'));
    names.contains(name) || functional.is_some_and(|twin| names.contains(twin))
}

/// The names without those of in-place forms.
pub(super) fn all() -> impl Iterator<Item = &'static str> {
    ADMITTED.iter().flat_map(|names| names.split_whitespace()).chain(INTERNAL.iter().map(|(name, _)| *name))
}
