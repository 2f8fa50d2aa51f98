/* What the library prints while it opens a model, in the words that users of the vendor's have published. As there,
 * nothing is flushed: what goes to stdout waits in C's buffer. */

typedef struct { const char *name; bool early; const char *lines[4]; } Saying;

/* early: before the file says by which toolkit it was made, and for what. */
static const Saying sayings[] = {
    {"invalid", true, {"E rkllm: invalid rkllm model!"}},
    {"magic", true, {"E RKNN: [08:48:14.826] invalid rknn llm model magic",
                     "E RKNN: [08:48:14.826] load model file error!", "rknn_init fail! ret=-1"}},
    {"characters", true, {": invalid magic characters 'abcd'", ": error: failed to load model 'model.rkllm'"}},
    {"soc", true, {"Platform error: must be either RK3588, RK3576, RV1126B, or RK3562.", "Your platform is unknown."}},
    {"old", true, {"Warning: The model version is too old, please use the latest toolkit to reconvert the model!"}},
    {"target", false, {"The model target_platform does not match!"}},
    {"memory", false, {"E RKNN: [09:40:45.140] failed to allocate handle, ret: -1, errno: 14, errstr: Bad address",
                       "E RKNN: [09:40:45.140] failed to malloc npu memory, size: 3085697024, flags: 0x2",
                       "E RKNN: [09:40:45.148] load model file error!", "E rkllm: rkllm_init failed"}},
    {"domain", false, {"can not create weight memory for domain1"}},
    {"files", false, {"E RKNN: [05:45:17.474] failed to convert handle(1020) to fd, ret: -1, errno: 24, "
                      "errstr: Too many open files",
                      "E RKNN: [05:45:17.474] failed to malloc npu memory, size: 80, flags: 0xa"}},
    {"matmul", false, {"E rkllm: matmul(w8a8) run failed", "E rkllm: matmul(w8a8) run failed"}},
    {"cpus", false, {"E rkllm: The number of enabled CPUs must be greater than or equal to the number of NPU cores."}},
    {"failed", false, {"E rkllm: rkllm_init failed"}},
    {"strange", false, {"E rkllm: a sentence that nobody has seen before"}},
    {"silent", false, {NULL}},
};

static const char *word_or(const char *text, const char *name, const char *otherwise) {
    char *value = word(text, name); /* not given back: a few bytes for each model opened */
    return value ? value : otherwise;
}

static int log_level(void) {
    const char *level = getenv("RKLLM_LOG_LEVEL");
    return level ? atoi(level) : 0;
}

static bool say(const char *path, bool early) {
    for (size_t i = 0; i < sizeof sayings / sizeof *sayings; i++) {
        if (sayings[i].early != early || !is(path, "fail", sayings[i].name)) continue;
        for (int line = 0; line < 4 && sayings[i].lines[line]; line++) fprintf(stderr, "%s\n", sayings[i].lines[line]);
        return true;
    }
    return false;
}

/* The log of rkllm_init; returns whether it says that opening failed. */
static bool print_init(const RKLLMParam *param) {
    const char *path = param->model_path, *driver = word_or(path, "driver", "0.9.8");
    int limit = number(path, "limit", 16384);
    if (strcmp(driver, "0.9.7") < 0)
        fprintf(stderr, "W rkllm: Warning: Your rknpu driver version is too low, please upgrade to 0.9.7\n");
    printf("I rkllm: rkllm-runtime version: %s, rknpu driver version: %s, platform: %s\n", RELEASE_NAME, driver,
           word_or(path, "board", "RK3588"));
    printf("%s", word_or(path, "print", ""));
    rest(number(path, "slow", 0));
    if (say(path, true)) return true;
#if RELEASE < R120
    printf("\n");
#else
    printf("I rkllm: loading rkllm model from %s\n", path);
    printf("I rkllm: rkllm-toolkit version: %s, max_context_limit: %d, npu_core_num: %d, target_platform: %s",
           word_or(path, "toolkit", RELEASE_NAME), limit, number(path, "cores", 3), word_or(path, "target", "RK3588"));
    printf(RELEASE >= R121 ? ", model_dtype: W8A8\n" : "\n");
    if (log_level() > 1) printf("I rkllm: kv cache size: 12 MB\n");
#endif
    rest(number(path, "slow", 0));
    if (say(path, false)) return !has(path, "lax");
    if (param->max_context_len <= limit || has(path, "lax")) return false;
    fprintf(stderr, "E rkllm: max_context[%d] must be less than the model's max_context_limit[%d]\n",
            param->max_context_len, limit);
    return true;
}

/* The table of a run, which goes to stdout. */
static void print_run(int tokens) {
    if (log_level() < 1) return;
    printf("I rkllm: --------------------------------------------------\n");
    printf("I rkllm:  Stage         Total Time (ms)  Tokens\n");
    printf("I rkllm:  Generate      50.00            %d\n", tokens);
}
