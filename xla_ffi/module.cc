// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 The jaxinfer authors
//
// The extension module jaxinfer._native: FFI targets as capsules, and the host planner.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include "csrc/attention.h"
#include "csrc/attention_tiles.h"
#include "csrc/hopper_tiles.h"
#include "csrc/plan.h"
#include "xla_ffi/kernel.h"
#include "xla_ffi/targets.h"

namespace py = pybind11;

namespace jaxinfer {
namespace {

using Int32s = py::array_t<int32_t, py::array::c_style | py::array::forcecast>;

PlanFacts decode(const Int32s& encoded) {
  PlanFacts facts;
  const char* wrong = decode_plan_facts(encoded.data(), encoded.size(), &facts);
  if (wrong != nullptr) throw py::value_error(wrong);
  return facts;
}

py::dict layout_dict(const Int32s& encoded) {
  const PlanLayout layout = plan_layout(decode(encoded));
  py::dict d;
  d["max_items"] = layout.max_items;
  d["max_merges"] = layout.max_merges;
  d["max_parts"] = layout.max_parts;
  d["cta_indptr"] = layout.cta_indptr;
  d["items"] = layout.items;
  d["merges"] = layout.merges;
  d["parts"] = layout.parts;
  d["size"] = layout.size;
  d["num_slots"] = layout.num_slots;
  d["slot_tokens"] = layout.slot_tokens;
  d["slot_heads"] = layout.slot_heads;
  return d;
}

// Of the CUDA kernel for every GPU: fields of Tile in _explain.py.
py::dict tiles_dict(int head_dim, int head_dim_v, int ctas_per_sm, int tile_rows) {
  const AttentionTiles tiles = attention_tiles(head_dim, head_dim_v, ctas_per_sm);
  py::dict d;
  d["keys"] = has_prefill(tile_rows) ? tiles.prefill_keys : tiles.warps * kDecodeKeys;
  d["stages"] = has_prefill(tile_rows) ? 2 : tiles.decode_stages;
  d["shared_bytes"] = tiles.shared_bytes(tile_rows);
  return d;
}
// Of the one for sm_90a.
py::tuple hopper_tiles_tuple(int head_dim) {
  const HopperTiles tiles = hopper_tiles(head_dim);
  return py::make_tuple(tiles.keys, tiles.stages);
}
int hopper_shared_bytes(int head_dim, int head_dim_v, int keys, int stages) {
  return hopper_layout(head_dim, head_dim_v, 0, {keys, stages}).shared_bytes;
}

// Without elements cu_q_lens is absent: one query each.
Int32s host_plan(const Int32s& encoded, const Int32s& cu_q_lens, const Int32s& kv_lens) {
  const PlanFacts facts = decode(encoded);
  const bool is_given = cu_q_lens.size() > 0;
  if ((is_given && cu_q_lens.size() != facts.num_seqs + 1) || kv_lens.size() != facts.num_seqs) {
    throw py::value_error("cu_q_lens and kv_lens do not have the facts' number of sequences");
  }
  Int32s buffer(plan_layout(facts).size);
  make_plan(facts, is_given ? cu_q_lens.data() : nullptr, kv_lens.data(), buffer.mutable_data());
  return buffer;
}

// `resolve` is called on a thread of XLA. Its exceptions become errors of the program.
void set_python_resolver(py::function resolve) {
  auto* held = new py::function(std::move(resolve));  // lives as long as the process
  set_kernel_resolver([held](const std::string& digest) -> ResolvedKernel {
    py::gil_scoped_acquire gil;
    try {
      return {true, std::string((*held)(digest).cast<py::bytes>())};
    } catch (py::error_already_set& error) {
      return {false, std::string(py::str(error.value()))};
    }
  });
}

}  // namespace

PYBIND11_MODULE(_native, m) {
  m.doc() = "FFI targets and the host planner of jaxinfer.";
  m.attr("ffi_api_version") = py::make_tuple(XLA_FFI_API_MAJOR, XLA_FFI_API_MINOR);
  m.attr("cpu_isa") = best_cpu_kernels().name;
  m.def("plan_layout", &layout_dict, py::arg("facts"));
  m.def("attention_tiles", &tiles_dict, py::arg("head_dim"), py::arg("head_dim_v"),
        py::arg("ctas_per_sm"), py::arg("tile_rows"));
  m.def("has_hopper_tiles", &has_hopper_tiles, py::arg("head_dim"), py::arg("head_dim_v"));
  m.def("hopper_tiles", &hopper_tiles_tuple, py::arg("head_dim"));
  m.def("hopper_shared_bytes", &hopper_shared_bytes, py::arg("head_dim"), py::arg("head_dim_v"),
        py::arg("keys"), py::arg("stages"));
  m.def(
      "fits_hopper",
      [](int head_dim, int head_dim_v, int keys, int stages) {
        return fits_hopper(head_dim, head_dim_v, {keys, stages});
      },
      py::arg("head_dim"), py::arg("head_dim_v"), py::arg("keys"), py::arg("stages"));
  m.def("make_plan", &host_plan, py::arg("facts"), py::arg("cu_q_lens"), py::arg("kv_lens"));

  auto capsule = [](XLA_FFI_Error* (*handler)(XLA_FFI_CallFrame*)) {
    return py::capsule(reinterpret_cast<void*>(handler), "xla._CUSTOM_CALL_TARGET");
  };
  auto stages = [&](XLA_FFI_Error* (*execute)(XLA_FFI_CallFrame*),
                    XLA_FFI_Error* (*initialize)(XLA_FFI_CallFrame*)) {
    py::dict d;
    d["initialize"] = capsule(initialize);
    d["execute"] = capsule(execute);
    return d;
  };
  py::dict cpu, cuda;
  cpu["plan"] = capsule(Plan);
  cpu["ragged_paged_attention"] = capsule(RaggedPagedAttention);
  cpu["ragged_attention"] = capsule(RaggedAttention);
  cpu["dot_product_attention"] = capsule(DotProductAttention);
  cpu["update_kv_pages"] = capsule(UpdateKvPages);
  cpu["merge_partials"] = capsule(MergePartials);
  cuda["ragged_paged_attention"] =
      stages(RaggedPagedAttentionCuda, RaggedPagedAttentionCudaInitialize);
  cuda["ragged_attention"] = stages(RaggedAttentionCuda, RaggedAttentionCudaInitialize);
  cuda["dot_product_attention"] =
      stages(DotProductAttentionCuda, DotProductAttentionCudaInitialize);
  cuda["plan"] = stages(PlanCuda, PlanCudaInitialize);
  cuda["update_kv_pages"] = stages(UpdateKvPagesCuda, UpdateKvPagesCudaInitialize);
  cuda["merge_partials"] = stages(MergePartialsCuda, MergePartialsCudaInitialize);
  cuda["rope"] = stages(RopeCuda, RopeCudaInitialize);
  cuda["rope_update_kv_pages"] = stages(RopeUpdateKvPagesCuda, RopeUpdateKvPagesCudaInitialize);
  m.attr("cpu_targets") = cpu;
  m.attr("cuda_targets") = cuda;

  m.def(
      "register_kernel",
      [](std::string digest, const py::bytes& cubin) {
        register_kernel(std::move(digest), std::string(cubin));
      },
      py::arg("digest"), py::arg("cubin"));
  m.def("set_kernel_resolver", &set_python_resolver, py::arg("resolve"));
  m.def("handler_calls", [] {
    const HandlerCalls calls = handler_calls();
    py::dict d;
    d["initialize"] = calls.initialize;
    d["execute"] = calls.execute;
    return d;
  });
}

}  // namespace jaxinfer
