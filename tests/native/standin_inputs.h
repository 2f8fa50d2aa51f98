/* What the stand-in is given, written down field by field. */

static void write_param(const RKLLMParam *p) {
    put("{\"call\": \"init\", \"model_path\": %s, \"max_context_len\": %d, \"max_new_tokens\": %d, \"top_k\": %d, "
        "\"top_p\": %.7g, \"temperature\": %.7g, \"repeat_penalty\": %.7g, \"frequency_penalty\": %.7g, "
        "\"presence_penalty\": %.7g, \"mirostat\": %d, \"mirostat_tau\": %.7g, \"mirostat_eta\": %.7g, "
        "\"skip_special_token\": %d, \"is_async\": %d, \"base_domain_id\": %d",
        quoted(p->model_path), p->max_context_len, p->max_new_tokens, p->top_k, p->top_p, p->temperature,
        p->repeat_penalty, p->frequency_penalty, p->presence_penalty, p->mirostat, p->mirostat_tau, p->mirostat_eta,
        p->skip_special_token, p->is_async, p->extend_param.base_domain_id);
#if RELEASE < R130
    put(", \"img_start\": %s, \"img_end\": %s, \"img_content\": %s", quoted(p->img_start), quoted(p->img_end),
        quoted(p->img_content));
#else
    put(", \"ignore_eos_token\": %d", p->ignore_eos_token);
#endif
#if RELEASE >= R120
    put(", \"n_keep\": %d, \"embed_flash\": %d, \"enabled_cpus_num\": %d, \"enabled_cpus_mask\": %u", p->n_keep,
        p->extend_param.embed_flash, p->extend_param.enabled_cpus_num, p->extend_param.enabled_cpus_mask);
#endif
#if RELEASE >= R121
    put(", \"n_batch\": %d, \"use_cross_attn\": %d", p->extend_param.n_batch, p->extend_param.use_cross_attn);
#endif
    int dirty = 0;
    for (size_t i = 0; i < sizeof p->extend_param.reserved; i++) dirty |= p->extend_param.reserved[i];
    put(", \"reserved\": %d}\n", dirty);
}

static uint64_t hash(const void *data, size_t size) {
    uint64_t h = 1469598103934665603u;
    for (const unsigned char *c = data, *stop = c + size; c < stop; c++) h = (h ^ *c) * 1099511628211u;
    return h;
}

typedef struct { const float *data; size_t floats; const int32_t *ids; size_t n_ids; const char *prompt; } Given;

static uint64_t hash_given(const Given *g) {
    uint64_t h = g->data ? hash(g->data, g->floats * sizeof(float)) : 1;
    if (g->ids) h ^= hash(g->ids, g->n_ids * sizeof(int32_t));
    return h ^ (g->prompt ? hash(g->prompt, strlen(g->prompt)) * 3 : 0);
}

static double sum(const float *data, size_t count) {
    double total = 0;
    for (size_t i = 0; i < count; i++) total += data[i];
    return total;
}

/* Writes down the input; returns 0, or -1 for what the vendor's runtime refuses. */
static int take_input(const RKLLMInput *input, Given *g, int width, int image_tokens) {
    memset(g, 0, sizeof *g);
    size_t tokens = 0, count = 1;
    put(", \"input_type\": %d", input->input_type);
#if RELEASE >= R121
    put(", \"role\": %s, \"enable_thinking\": %d", quoted(input->role), input->enable_thinking);
#endif
    if (input->input_type == 0) g->prompt = input->prompt_input;
    if (input->input_type == 1) {
        g->ids = input->token_input.input_ids, g->n_ids = input->token_input.n_tokens;
        put(", \"address\": %zu, \"n_tokens\": %zu, \"first\": %d, \"last\": %d", (size_t)g->ids, g->n_ids, g->ids[0],
            g->ids[g->n_ids - 1]);
    }
    if (input->input_type == 2) {
        g->data = input->embed_input.embed, tokens = input->embed_input.n_tokens;
        put(", \"n_tokens\": %zu", tokens);
    }
    if (input->input_type == 3) {
        const RKLLMMultiModalInput *m = &input->multimodal_input;
        g->prompt = m->prompt;
#if RELEASE >= R130
        g->data = m->image.image_embed, tokens = m->image.n_image_tokens, count = m->image.n_image;
        put(", \"image_start\": %s, \"image_end\": %s, \"image_content\": %s, \"image_width\": %zu, "
            "\"image_height\": %zu",
            quoted(m->image.image_start), quoted(m->image.image_end), quoted(m->image.image_content),
            m->image.image_width, m->image.image_height);
        if (m->video.video_embed || m->video.n_video) violation("video fields that are not empty");
#else
        g->data = m->image_embed, tokens = m->n_image_tokens;
#if RELEASE >= R121B1
        count = m->n_image;
        put(", \"image_width\": %zu, \"image_height\": %zu", m->image_width, m->image_height);
#endif
#endif
        put(", \"n_image_tokens\": %zu, \"n_image\": %zu", tokens, count);
    }
    g->floats = g->data ? tokens * count * width : 0;
    if (g->floats)
        put(", \"address\": %zu, \"first\": %.7g, \"last\": %.7g, \"sum\": %.9g", (size_t)g->data, g->data[0],
            g->data[g->floats - 1], sum(g->data, g->floats));
    put(", \"prompt\": %s", quoted(g->prompt));
    if (input->input_type != 3) return 0;
    return g->prompt && strstr(g->prompt, "<image>") && tokens == (size_t)image_tokens ? 0 : -1;
}

/* ---- adapters and prompt caches ------------------------------------------------------------------------------ */

typedef struct { int count; char *names[16]; } Adapters;

static int remember(Adapters *adapters, const char *name) {
    if (!name || adapters->count == 16) return -1;
    for (int i = 0; i < adapters->count; i++) if (!strcmp(adapters->names[i], name)) return violation("a name twice"), -1;
    adapters->names[adapters->count++] = strdup(name);
    return 0;
}

static void forget(Adapters *adapters) {
    while (adapters->count) free(adapters->names[--adapters->count]);
}

static char *load_cache(const char *path) {
    FILE *file = path ? fopen(path, "r") : NULL;
    if (!file) return NULL;
    char text[2048];
    size_t size = fread(text, 1, sizeof text - 1, file);
    text[size] = 0;
    fclose(file);
    return strncmp(text, "CACHE ", 6) ? NULL : strdup(text + 6);
}

static void save_cache(const RKLLMInferParam *infer, const char *prompt) {
    const RKLLMPromptCacheParam *cache = infer->prompt_cache_params;
    if (!cache || has(prompt, "unsaved")) return;
    if (!cache->save_prompt_cache || !cache->prompt_cache_path) { violation("prompt cache parameters that ask for nothing"); return; }
    FILE *file = fopen(cache->prompt_cache_path, "w");
    if (file) fprintf(file, "CACHE %s", prompt), fclose(file);
}

/* Writes down the settings; returns the most tokens the run may have. adapter: the number of the one asked for. */
static int take_infer(const RKLLMInferParam *infer, int limit, const Adapters *adapters, int *adapter) {
    put(", \"mode\": %d", infer->mode);
    const RKLLMPromptCacheParam *cache = infer->prompt_cache_params;
    const char *lora = infer->lora_params ? infer->lora_params->lora_adapter_name : NULL;
    for (int i = 0; lora && i < adapters->count; i++) if (!strcmp(lora, adapters->names[i])) *adapter = i + 1;
    if (lora && !*adapter) violation("an adapter that was not loaded");
    put(", \"lora\": %s, \"save_cache\": %s", quoted(lora), quoted(cache ? cache->prompt_cache_path : NULL));
#if RELEASE >= R120
    put(", \"keep_history\": %d", infer->keep_history);
#endif
#if RELEASE >= R130
    const RKLLMSamplingParam *s = infer->sampling_params;
    if (s)
        put(", \"top_k\": %d, \"top_p\": %.7g, \"temperature\": %.7g, \"repeat_penalty\": %.7g, "
            "\"frequency_penalty\": %.7g, \"presence_penalty\": %.7g, \"mirostat\": %d, \"mirostat_tau\": %.7g, "
            "\"mirostat_eta\": %.7g",
            s->top_k, s->top_p, s->temperature, s->repeat_penalty, s->frequency_penalty, s->presence_penalty,
            s->mirostat, s->mirostat_tau, s->mirostat_eta);
    put(", \"max_new_tokens\": %d", infer->max_new_tokens);
    if (infer->max_new_tokens > 0) limit = infer->max_new_tokens;
#endif
    return limit;
}
