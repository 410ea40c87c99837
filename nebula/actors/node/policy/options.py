"""The options of vLLM 0.32, sorted by what they can do to the machine of a node. Pure.

Those that tune an engine are allowed unless a node's policy says otherwise; the others are refused
unless it allows them. An option that is in no table is one that Nebula does not know: refused.
`tests/e2e/test_engine_options.py` compares the tables with the installed vLLM.
"""

from typing import Final

from nebula.actors.node.policy.variables import named

TUNING: Final = named("""
    dtype seed max-model-len max-num-seqs max-num-batched-tokens max-num-scheduled-tokens
    max-num-active-seqs max-num-queued-reqs max-num-queued-tokens max-logprobs logprobs-mode
    enforce-eager quantization allow-deprecated-quantization revision tokenizer-revision
    tokenizer-mode config-format convert pooler-config override-generation-config model-impl
    disable-sliding-window disable-cascade-attn skip-tokenizer-init use-fp64-gumbel
    return-sampling-mask enable-return-routed-experts enable-sleep-mode
    sleep-mode-offload-cudagraph sleep-preserve-parameter-names enable-cumem-allocator
    enable-nccl-comm-suspend renderer-num-workers safetensors-load-strategy
    safetensors-prefetch-num-threads safetensors-prefetch-block-size ignore-patterns
    use-tqdm-on-load pt-load-map-location
    attention-backend mamba-backend mamba-ssu-algorithm enable-mamba-cache-stochastic-rounding
    mamba-cache-philox-rounds gdn-prefill-backend kda-prefill-backend kda-decode-backend
    moe-backend linear-backend sparse-indexer-topk-backend enable-flashinfer-autotune
    reasoning-parser tool-call-parser enable-auto-tool-choice tool-strict-level
    exclude-tools-when-tool-choice-none chat-template-content-format default-chat-template-kwargs
    response-role return-tokens-as-token-ids cohere-is-reasoning-model cohere-format
    anthropic-disabled-thinking-effort fingerprint-mode fingerprint-value
    enable-prompt-tokens-details enable-per-request-metrics enable-server-load-tracking
    enable-force-include-usage sse-keep-alive-interval enable-tokenizer-info-endpoint
    enable-flash-late-interaction
    tensor-parallel-size pipeline-parallel-size decode-context-parallel-size dcp-comm-backend
    dcp-q-replicate dcp-kv-cache-interleave-size cp-kv-cache-interleave-size
    prefill-context-parallel-size distributed-timeout-seconds cpu-distributed-timeout-seconds
    numa-bind numa-bind-nodes numa-bind-cpus enable-hc-sp enable-expert-parallel
    enable-batch-sharded-sampling enable-ep-weight-filter all2all-backend enable-dbo
    enable-shm-tensor-arena ubatch-size dbo-decode-token-threshold dbo-prefill-token-threshold
    dp-sync-interval disable-nccl-for-dp-synchronization enable-eplb eplb-config
    expert-placement-strategy max-parallel-loading-workers disable-custom-all-reduce
    block-size gpu-memory-utilization device-memory-utilization kv-cache-memory-bytes kv-cache-dtype
    num-gpu-blocks-override enable-prefix-caching prefix-caching-hash-algo
    prefix-cache-retention-interval kv-cache-dtype-skip-layers kv-sharing-fast-prefill
    swa-bounded-replay mamba-cache-dtype mamba-ssm-cache-dtype mamba-block-size prefix-match-unit
    mamba-cache-mode enable-mamba-shared-prefix-checkpoint replayssm-buffer-len use-replayssm
    kv-offloading-size offload-backend cpu-offload-gb cpu-offload-params offload-group-size
    offload-num-in-group offload-prefetch-step offload-params
    language-model-only limit-mm-per-prompt media-io-kwargs mm-processor-cache-gb
    mm-processor-cache-type mm-hasher-algorithm mm-shm-cache-max-object-size-mb mm-encoder-only
    mm-encoder-tp-mode mm-encoder-attn-backend mm-encoder-attn-dtype
    mm-encoder-fp8-scale-save-margin interleave-mm-strings skip-mm-profiling video-pruning-rate
    video-pruning-method mm-tensor-ipc mm-processor-device mm-ipc-gpu-memory-gb
    mm-device-do-normalize
    max-loras max-lora-rank lora-dtype enable-tower-connector-lora max-cpu-loras
    fully-sharded-loras lora-target-modules specialize-active-lora enable-mixed-moe-lora-format
    enable-moe-shared-loras max-lora-cls-labels
    show-hidden-metrics-for-version per-request-spec-decode-metrics kv-cache-metrics
    kv-cache-metrics-sample custom-histogram-buckets cudagraph-metrics
    enable-layerwise-nvtx-tracing enable-mfu-metrics enable-logging-iteration-details
    jit-monitor-mode jit-monitor-verbose disable-log-stats aggregate-engine-logging
    log-level uvicorn-log-level disable-uvicorn-access-log disable-access-log-for-endpoints
    disable-fastapi-docs max-log-len log-error-stack enable-request-id-headers shutdown-timeout
    h11-max-incomplete-event-size h11-max-header-count fail-on-environ-validation
    enable-log-requests enable-log-outputs enable-log-deltas
    long-prefill-token-threshold long-prefill-token-threshold-adaptive scheduling-policy
    enable-chunked-prefill disable-chunked-mm-input scheduler-reserve-full-isl watermark
    prefill-schedule-interval disable-hybrid-kv-cache-manager async-scheduling stream-interval
    cudagraph-capture-sizes max-cudagraph-capture-size optimization-level performance-mode
    ir-op-priority spec-tokens watermark-config diffusion-config reasoning-config hf-token
    """)
"""They tune an engine, and name neither code, nor files, nor addresses. (`hf-token` is whose
account the requester uses at the hub.)"""

SIMULATED: Final = "simulate-"
"""What the options of simulated engines begin with; no other engine has them."""

LISTS: Final = named("""
    sleep-preserve-parameter-names ignore-patterns numa-bind-nodes numa-bind-cpus
    kv-cache-dtype-skip-layers cpu-offload-params offload-params lora-target-modules
    collect-detailed-traces cudagraph-capture-sizes simulate-tasks logits-processors
    """)
"""Those that take several values. With any other, vLLM may read the second as the model's name."""

VALUES: Final = {
    "load-format": named(
        "auto hf safetensors fastsafetensors pt mistral npcache dummy gguf bitsandbytes"
    ),
    "distributed-executor-backend": frozenset({"mp", "uni"}),
    "generation-config": frozenset({"auto", "vllm"}),
    "kv-offloading-backend": frozenset({"native"}),
    "spec-method": frozenset(
        {"ngram", "ngram_gpu", "suffix", "mtp", "eagle", "eagle3", "medusa", "mlp_speculator"}
    ),
}
"""Values with which an option only tunes; with others it names code, files or addresses."""

SOURCES: Final = frozenset(
    {"tokenizer", "hf-config-path", "spec-model", "speculative-config.model"}
)
"""They name a folder or hub id, for which the rules of sources hold."""

PARTS: Final = frozenset(
    f"{option}.{part}"
    for option, parts in {
        "hf-overrides": """
            num_labels architectures is_matryoshka matryoshka_dimensions classifier_from_token
            method is_original_qwen3_reranker rope_scaling rope_parameters rope_theta
            max_position_embeddings num_hidden_layers""",
        "mm-processor-kwargs": """
            max_pixels min_pixels num_crops max_dynamic_patch min_dynamic_patch fps
            use_audio_in_video do_resize size""",
        "speculative-config": """
            num_speculative_tokens prompt_lookup_max prompt_lookup_min enforce_eager
            draft_tensor_parallel_size max_model_len""",
        "compilation-config": """
            mode cudagraph_mode cudagraph_num_of_warmups cudagraph_capture_sizes
            max_cudagraph_capture_size cudagraph_specialize_lora compile_sizes custom_ops
            use_inductor_graph_partition pass_config compile_mm_encoder""",
        "structured-outputs-config": """
            backend disable_any_whitespace disable_additional_properties enable_in_reasoning
            reasoning_parser""",
        "attention-config": "backend flash_attn_version use_trtllm_attention",
        "kernel-config": "enable_flashinfer_autotune moe_backend ir_op_priority",
    }.items()
    for part in parts.split()
)
"""Parts of larger options that tune, as `{"compilation-config": {"cudagraph_mode": "NONE"}}`."""

PART_VALUES: Final = {"speculative-config.method": VALUES["spec-method"]}

_CODE = "which can run code that is not vLLM's"
_FILES = "which names files or folders of the node"
_ADDRESSES = "which can open ports or connections"
_CLIENTS = "which lets clients decide what they should not"
_DEVICES = "which takes devices or processes that Nebula does not know of"

GUARDED: Final = {
    **dict.fromkeys(
        named("""
        trust-remote-code code-revision worker-cls worker-extension-cls scheduler-cls
        logits-processors io-processor-plugin tool-parser-plugin reasoning-parser-plugin
        model-class-overrides hf-overrides compilation-config additional-config speculative-config
        spec-method distributed-executor-backend structured-outputs-config attention-config
        kernel-config quantization-config ray-workers-use-nsight mm-processor-kwargs
        """),
        _CODE,
    ),
    **dict.fromkeys(
        named("""
        chat-template download-dir allowed-local-media-path generation-config load-format
        model-loader-extra-config mm-encoder-fp8-scale-path mm-encoder-fp8-scale-save-path
        log-config-file logging-config profiler-config default-mm-loras enable-trace-replay
        engram-config aux-output-config enable-offline-docs
        """),
        _FILES,
    ),
    **dict.fromkeys(
        named("""
        master-addr master-port nnodes node-rank data-parallel-address data-parallel-rpc-port
        data-parallel-supervisor-port dp-supervisor-probe-interval-s dp-supervisor-probe-timeout-s
        dp-supervisor-probe-failure-threshold grpc grpc-port tool-server otlp-traces-endpoint
        collect-detailed-traces kv-transfer-config kv-events-config ec-transfer-config
        ec-manager-config weight-transfer-config kv-offloading-backend allowed-media-domains
        allowed-origins allowed-methods allowed-headers allow-credentials enable-ssl-refresh
        ssl-cert-reqs ssl-ciphers tokens-only enable-scale-out
        """),
        _ADDRESSES,
    ),
    **dict.fromkeys(
        named("""
        trust-request-chat-template trust-request-mm-kwargs enable-prompt-embeds enable-mm-embeds
        """),
        _CLIENTS,
    ),
    **dict.fromkeys(
        named("""
        device-ids data-parallel-rank data-parallel-start-rank data-parallel-size-local
        data-parallel-backend data-parallel-hybrid-lb data-parallel-external-lb
        data-parallel-multi-port-external-lb enable-elastic-ep elastic-ep-max-dp-size
        enable-fault-tolerance fault-tolerance-config
        """),
        _DEVICES,
    ),
}
"""What an option can do to the machine, where that is more than tuning."""

UNKNOWN: Final = "which Nebula does not know"
