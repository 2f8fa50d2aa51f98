/* The structs of rkllm.h in each release, written from the facts recorded in tests/rkllm/layouts.json, against which
 * the build checks every size and offset. RELEASE is one of the numbers below. */
#ifndef RKLLM_STRUCTS_H
#define RKLLM_STRUCTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define R114 0
#define R120 1
#define R121B1 2
#define R121 3
#define R122 4
#define R123 5
#define R130 6

typedef void *LLMHandle;

typedef struct {
    int32_t base_domain_id;
#if RELEASE >= R120
    int8_t embed_flash, enabled_cpus_num;
    uint32_t enabled_cpus_mask;
#endif
#if RELEASE >= R121
    uint8_t n_batch;
    int8_t use_cross_attn;
    uint8_t reserved[104];
#elif RELEASE >= R120
    uint8_t reserved[106];
#else
    uint8_t reserved[112];
#endif
} RKLLMExtendParam;

typedef struct {
    const char *model_path;
    int32_t max_context_len, max_new_tokens, top_k;
#if RELEASE >= R120
    int32_t n_keep;
#endif
    float top_p, temperature, repeat_penalty, frequency_penalty, presence_penalty;
    int32_t mirostat;
    float mirostat_tau, mirostat_eta;
    bool skip_special_token;
#if RELEASE >= R130
    bool ignore_eos_token, is_async;
#else
    bool is_async;
    const char *img_start, *img_end, *img_content;
#endif
    RKLLMExtendParam extend_param;
} RKLLMParam;

typedef struct { const char *lora_adapter_path, *lora_adapter_name; float scale; } RKLLMLoraAdapter;
typedef struct { float *embed; size_t n_tokens; } RKLLMEmbedInput;
typedef struct { int32_t *input_ids; size_t n_tokens; } RKLLMTokenInput;

typedef struct {
    char *prompt;
#if RELEASE >= R130
    struct {
        float *image_embed;
        size_t n_image_tokens, n_image;
        const char *image_start, *image_end, *image_content;
        size_t image_width, image_height;
    } image;
    struct {
        float *video_embed;
        size_t n_frame_tokens, n_frame_per_video, n_video;
        const char *video_start, *video_end, *video_content;
        size_t frame_width, frame_height;
    } video;
#else
    float *image_embed;
    size_t n_image_tokens;
#if RELEASE >= R121B1
    size_t n_image, image_width, image_height;
#endif
#endif
} RKLLMMultiModalInput;

typedef struct {
#if RELEASE >= R121
    const char *role;
    bool enable_thinking;
#endif
    int input_type;
    union {
        const char *prompt_input;
        RKLLMEmbedInput embed_input;
        RKLLMTokenInput token_input;
        RKLLMMultiModalInput multimodal_input;
    };
} RKLLMInput;

typedef struct { const char *lora_adapter_name; } RKLLMLoraParam;
typedef struct { int save_prompt_cache; const char *prompt_cache_path; } RKLLMPromptCacheParam;

#if RELEASE >= R121
typedef struct {
    float *encoder_k_cache, *encoder_v_cache, *encoder_mask;
    int32_t *encoder_pos;
    int num_tokens;
} RKLLMCrossAttnParam;
#endif

#if RELEASE >= R130
typedef struct {
    int32_t top_k;
    float top_p, temperature, repeat_penalty, frequency_penalty, presence_penalty;
    int32_t mirostat;
    float mirostat_tau, mirostat_eta;
} RKLLMSamplingParam;
#endif

typedef struct {
    int mode;
    RKLLMLoraParam *lora_params;
    RKLLMPromptCacheParam *prompt_cache_params;
#if RELEASE >= R130
    RKLLMSamplingParam *sampling_params;
#endif
#if RELEASE >= R120
    int keep_history;
#endif
#if RELEASE >= R130
    int32_t max_new_tokens;
#endif
} RKLLMInferParam;

typedef struct { const float *hidden_states; int embd_size, num_tokens; } RKLLMResultLastHiddenLayer;

#if RELEASE >= R120
typedef struct { const float *logits; int vocab_size, num_tokens; } RKLLMResultLogits;
#endif

#if RELEASE >= R121
typedef struct {
    float prefill_time_ms;
    int prefill_tokens;
    float generate_time_ms;
    int generate_tokens;
    float memory_usage_mb;
} RKLLMPerfStat;
#endif

typedef struct {
    const char *text;
    int32_t token_id;
    RKLLMResultLastHiddenLayer last_hidden_layer;
#if RELEASE >= R120
    RKLLMResultLogits logits;
#endif
#if RELEASE >= R121
    RKLLMPerfStat perf;
#endif
} RKLLMResult;

#if RELEASE >= R121
typedef int callback_return;
#else
typedef void callback_return;
#endif
typedef callback_return (*LLMResultCallback)(RKLLMResult *, void *, int);

#if RELEASE >= R130
typedef int (*LLMTokenizerCallback)(void *, const char *, int32_t, int32_t *, int32_t);
typedef int (*LLMGetEmbedCallback)(void *, int32_t *, uint64_t, void *, uint64_t);
typedef struct {
    LLMResultCallback result_callback;
    void *result_userdata;
    LLMTokenizerCallback tokenizer_callback;
    void *tokenizer_userdata;
    LLMGetEmbedCallback embed_callback;
    void *embed_userdata;
} RKLLMCallback;
#endif

#endif
