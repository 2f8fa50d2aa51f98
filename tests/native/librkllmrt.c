/* A stand-in for librkllmrt.so, one release for each build (-DRELEASE=..., -DRELEASE_NAME="..."). It runs no model: it
 * looks at everything it is given, writes it down, and calls back as it was told to by words in brackets.
 *
 * What it saw is read with standin_report(): JSON objects, one a line, until standin_reset(). A line with "violation"
 * is a rule of the interface broken by the caller.
 *
 * Words in the model's path:
 *   [refuse]    rkllm_init returns -1          [null]      rkllm_init returns 0 and leaves the handle NULL
 *   [width=N]   the model's embedding width (8)            [image-tokens=N]  tokens of one image it takes (4)
 *   [prefill-token=US] [rate=N]  microseconds of prefill for each token of the input (a prompt's text has one for every
 *               four bytes), and tokens a second of the answer; what was taken is in the perf of every run then
 *   [clear=N]   rkllm_clear_kv_cache returns N once something has run
 *   [driver=0.9.8] [board=RK3588] [toolkit=RELEASE] [limit=16384] [cores=3] [target=RK3588]  what the log of rkllm_init
 *               says; a driver before 0.9.7 is warned of, and a longer context than the limit is refused
 *   [sticky]    a run goes on with the adapter that made the KV cache until that is cleared
 *   [lax]       opens in spite of a context too long, or of what [fail] says; the next line is for the log's middle
 *   [slow=MS]   waits, twice                               [print=TEXT]  prints TEXT on stdout, without a line end
 *   [fail=NAME] rkllm_init says why in the words NAME of standin_log.h, and returns -1; with [null] 0 and no handle,
 *               with [zero] 0 and a handle that must not be used
 * Words in the prompt:
 *   [id=X]      every token's text is "X:0 ", "X:1 ", ...  [tokens=N]  how many tokens (5)
 *   [say=TEXT]  says TEXT instead, cut into pieces of [piece=N] bytes (1), one a token, whatever UTF-8 says
 *   [call=NAME] calls a tool of that name, in the words of Qwen's models; once its answer is in the prompt, says that
 *   [badcall]   calls a tool in words that are no call     [think=TEXT]  thinks TEXT, and says [say=TEXT] then
 *   [bytes=N]   says no more than N bytes of it
 *   [waiting=bytes|null|again]  a piece that ends inside a character comes as WAITING with its bytes, or with NULL and
 *               all of its bytes later, or with its bytes and all of them again later
 *   [empty=N]   the Nth token has NULL text                [prefill=MS] [pace=MS]  time before the first token, for each
 *   [thread]    calls back from a thread of its own        [userdata=null]  loses the userdata
 *   [finish=now|later|text|again|null|none|late]  FINISH right after the last token, one token later, with the last
 *               token's text in it, with the last token's text again, with a NULL result, not at all, or (with the
 *               last token) from a thread after rkllm_run has returned
 *   [error=N]   ERROR after N tokens                       [rc=N]  what rkllm_run returns
 *   [fail]      rkllm_run returns -1 without a callback    [hang]  does not return before standin_release()
 *   [abort=finish|error|none]  what an abort is answered with      [deaf=N]  the first N aborts are not heard
 *   [huge]      says that an array has more elements than memory can hold
 *   [room=N]    ids that a tokenizer of the caller's may give (64)      [half]  wants embeddings as 16 bits
 *   [unsaved]   saves no prompt cache                      [mute]  rkllm_is_running says that nothing runs, always
 *   [over=N]    goes on N tokens beyond max_new_tokens     [ghost]  a token with the userdata of the run before
 * In the environment: RKLLM_LOG_LEVEL=1 prints a table on stdout after each run, 2 the cache's size when opening.
 */
#include "rkllm_structs.h"
#include "standin.h"
#include "standin_inputs.h"
#include "standin_log.h"

enum { NORMAL, WAITING, FINISH, ERROR, HIDDEN };
enum { MODELS = 64, MAGIC = 0x5ca1ab1e };

EXPORT const char standin_version[] = "RKLLM SDK (version: " RELEASE_NAME " | target: stand-in)";

typedef struct {
    int magic, aborts, deaf, kv, ran;
    bool running, aborted;
    int width, image_tokens, clear_code, max_new_tokens;
    double prefill_ms, token_ms; /* for each token */
    bool async, cross, sticky, mute;
    Adapters adapters;
    int kv_adapter;   /* that what is in the KV cache was made with; 0 is none */
    char *cache;      /* the prompt of the prompt cache that is loaded */
    pthread_t runner; /* of an asynchronous run */
    bool runner_started;
#if RELEASE >= R121
    RKLLMCrossAttnParam attention;
#endif
#if RELEASE >= R130
    RKLLMCallback callbacks;
#endif
    LLMResultCallback callback;
    void *last_userdata;
    bool late_started;
    pthread_t late;
} Model;

typedef struct {
    Model *model;
    const RKLLMInput *input;
    const RKLLMInferParam *infer;
    char *prompt;
    void *userdata;
    int code, sent, limit, tokens, adapter;
    double began, prefilled; /* milliseconds */
} Job;

static Model models[MODELS];
static pthread_cond_t released = PTHREAD_COND_INITIALIZER;
static int releases, hanging;

/* Lets every run that hangs now return; how many there were. */
EXPORT int standin_release(void) {
    pthread_mutex_lock(&lock);
    int count = hanging;
    releases++;
    pthread_cond_broadcast(&released);
    pthread_mutex_unlock(&lock);
    return count;
}

/* ---- the model's life ---------------------------------------------------------------------------------------- */

static Model *live(LLMHandle handle, const char *caller) {
    Model *model = handle;
    if (model && model >= models && model < models + MODELS && model->magic == MAGIC) return model;
    put("{\"violation\": \"%s on a handle that is not open\"}\n", caller);
    return NULL;
}

static Model *idle(LLMHandle handle, const char *caller) {
    Model *model = live(handle, caller);
    if (model && model->running) put("{\"violation\": \"%s during a run\"}\n", caller);
    return model;
}

EXPORT RKLLMParam rkllm_createDefaultParam(void) {
    RKLLMParam p;
    memset(&p, 0, sizeof p);
    p.max_context_len = 512, p.max_new_tokens = 512, p.top_k = 40, p.top_p = 0.9f, p.temperature = 0.8f;
    p.repeat_penalty = 1.1f, p.mirostat_tau = 5.0f, p.mirostat_eta = 0.1f, p.skip_special_token = true;
#if RELEASE >= R120
    p.n_keep = -1;
    p.extend_param.enabled_cpus_num = 4, p.extend_param.enabled_cpus_mask = 0xF0;
#endif
#if RELEASE >= R121
    p.extend_param.n_batch = 1;
#endif
    return p;
}

#if RELEASE >= R130
EXPORT int rkllm_init(LLMHandle *handle, RKLLMParam *param, RKLLMCallback *callbacks) {
    LLMResultCallback callback = callbacks ? callbacks->result_callback : NULL;
#else
EXPORT int rkllm_init(LLMHandle *handle, RKLLMParam *param, LLMResultCallback callback) {
#endif
    if (!handle || !param || !param->model_path || !callback) return violation("rkllm_init with a NULL"), -1;
    write_param(param);
#if RELEASE < R130
    if (!param->img_start || !param->img_end || !param->img_content) return violation("a NULL image tag"), -1;
#endif
    *handle = NULL;
    bool failed = print_init(param);
    if (has(param->model_path, "refuse")) return -1;
    if (has(param->model_path, "null")) return 0;
    if (failed && has(param->model_path, "zero")) return *handle = (LLMHandle)(models + MODELS), 0;
    if (failed) return -1;
    for (Model *m = models; m < models + MODELS; m++) {
        if (m->magic == MAGIC) continue;
        memset(m, 0, sizeof *m);
        m->magic = MAGIC;
        m->callback = callback;
        m->width = number(param->model_path, "width", 8);
        m->image_tokens = number(param->model_path, "image-tokens", 4);
        m->clear_code = number(param->model_path, "clear", 0);
        m->max_new_tokens = param->max_new_tokens;
        m->prefill_ms = real(param->model_path, "prefill-token", 0) / 1e3;
        m->async = param->is_async, m->sticky = has(param->model_path, "sticky");
        m->mute = has(param->model_path, "mute");
#if RELEASE >= R121
        m->cross = param->extend_param.use_cross_attn;
#endif
#if RELEASE >= R130
        m->callbacks = *callbacks;
#endif
        m->token_ms = has(param->model_path, "rate") ? 1e3 / real(param->model_path, "rate", 1) : 0;
        *handle = m;
        return 0;
    }
    return violation("too many models open"), -1;
}

EXPORT int rkllm_destroy(LLMHandle handle) {
    Model *model = idle(handle, "rkllm_destroy");
    if (!model) return -1;
    if (model->late_started) pthread_join(model->late, NULL);
    if (model->runner_started) pthread_join(model->runner, NULL);
    forget(&model->adapters), free(model->cache);
    put("{\"call\": \"destroy\"}\n");
    model->magic = 0;
    return 0;
}

/* ---- a run --------------------------------------------------------------------------------------------------- */

static void call_back(Job *job, RKLLMResult *result, int state) {
    void *userdata = is(job->prompt, "userdata", "null") ? NULL : job->userdata;
#if RELEASE >= R121
    /* 2 has the buffer of an array freed, from 1.3.0 */
    int wanted = RELEASE >= R130 && result && (result->logits.logits || result->last_hidden_layer.hidden_states) ? 2 : 0;
    int said = job->model->callback(result, userdata, state);
    if (said != wanted && !has(job->prompt, "huge")) put("{\"violation\": \"a callback returned %d, not %d\"}\n", said, wanted);
#else
    job->model->callback(result, userdata, state);
#endif
}

/* One callback. The text and the result are spoilt afterwards: who kept a pointer to them shows it. */
static void tell(Job *job, int state, const char *bytes, int size, int token, RKLLMResult *more) {
    char *text = bytes ? strndup(bytes, size) : NULL;
    RKLLMResult result;
    memset(&result, 0, sizeof result);
    if (more) result = *more;
    result.text = text, result.token_id = token;
    call_back(job, &result, state);
    if (text) memset(text, '#', size);
    free(text);
    memset(&result, 0x5a, sizeof result);
}

static void finish(Job *job, const char *bytes, int size, int token) {
    RKLLMResult result;
    memset(&result, 0, sizeof result);
#if RELEASE >= R121
    result.perf = (RKLLMPerfStat){12.5f, 7, 50.0f, job->sent, 64.25f};
    if (job->model->prefill_ms || job->model->token_ms) {
        result.perf.prefill_time_ms = job->prefilled - job->began, result.perf.prefill_tokens = job->tokens;
        result.perf.generate_time_ms = now_ms() - job->prefilled;
    }
#endif
    tell(job, FINISH, bytes, size, token, &result);
}

static int open_bytes(const char *text, int size) {
    for (int back = 1; back <= 3 && back <= size; back++) {
        unsigned char c = text[size - back];
        if ((c & 0xC0) == 0x80) continue;
        int need = c >= 0xF0 ? 4 : c >= 0xE0 ? 3 : c >= 0xC0 ? 2 : 1;
        return need > back ? back : 0;
    }
    return 0;
}

static bool interrupted(Job *job) {
    pthread_mutex_lock(&lock);
    bool yes = job->model->aborted;
    pthread_mutex_unlock(&lock);
    if (!yes) return false;
    if (is(job->prompt, "abort", "finish")) finish(job, NULL, 0, 0);
    else if (is(job->prompt, "abort", "error")) tell(job, ERROR, NULL, 0, 0, NULL), job->code = -1;
    return true;
}

static void *late_end(void *argument) {
    Job *job = argument;
    rest(60);
    char *id = word(job->prompt, "id");
    char text[128];
    snprintf(text, sizeof text, "%s:%d ", id ? id : "t", job->sent);
    tell(job, NORMAL, text, strlen(text), 100 + job->sent, NULL);
    job->sent++;
    finish(job, NULL, 0, 0);
    free(id), free(job->prompt), free(job);
    return NULL;
}

static void end(Job *job, const char *text, int size, int token) {
    const char *p = job->prompt;
    if (is(p, "finish", "none")) return;
    if (is(p, "finish", "later")) rest(number(p, "pace", 20));
    if (is(p, "finish", "text") || is(p, "finish", "again")) finish(job, text, size, token);
    else if (is(p, "finish", "null")) call_back(job, NULL, FINISH);
    else if (is(p, "finish", "late")) {
        Job *copy = malloc(sizeof *copy);
        *copy = *job, copy->prompt = strdup(p);
        pthread_create(&job->model->late, NULL, late_end, copy);
        job->model->late_started = true;
    } else finish(job, NULL, 0, 0);
}

/* An abort is not noticed here, as on the board. */
static void prefill(Job *job) {
    job->began = now_ms();
    rest(number(job->prompt, "prefill", 0) + job->model->prefill_ms * job->tokens);
    job->prefilled = now_ms();
}

/* What a prompt has told to be said, if anything. For the caller to free. */
static char *script(const char *p) {
    char *say = word(p, "say"), *call = word(p, "call"), *think = word(p, "think"), *made = NULL;
    const char *answer = strstr(p, "<tool_response>\n");
    int size = -1;
    if (call && answer) size = asprintf(&made, "It is %.*s.", (int)strcspn(answer + 16, "\n"), answer + 16);
    else if (call)
        size = asprintf(&made, "<tool_call>\n{\"name\": \"%s\", \"arguments\": {\"place\": \"Oslo\"}}\n</tool_call>", call);
    else if (has(p, "badcall")) size = asprintf(&made, "Well: <tool_call>\n{\"name\": }\n</tool_call>");
    else if (think) size = asprintf(&made, "%s\n</think>\n\n%s", think, say ? say : "");
    if (size < 0) return free(call), free(think), say;
    free(say), free(call), free(think);
    return made;
}

/* The tokens of a text cut into pieces of some bytes, or of an id with a running number. */
static void speak(Job *job) {
    const char *p = job->prompt;
    char *say = script(p), *id = word(p, "id"), counted[128] = "";
    int piece = number(p, "piece", 1), length = say ? number(p, "bytes", strlen(say)) : 0;
    int open = 0, unsaid = 0, size = 0, token = 0;
    int count = say ? (length + piece - 1) / piece : number(p, "tokens", 5), error = number(p, "error", -1);
    const char *adapter = job->adapter ? job->model->adapters.names[job->adapter - 1] : "";
    bool in_finish = is(p, "finish", "text") || is(p, "finish", "late");
    if (count > job->limit) count = job->limit + number(p, "over", 0);
    const char *text = counted;
    for (int i = 0; i < count; i++) {
        if (interrupted(job)) goto out;
        if (i == error) { tell(job, ERROR, NULL, 0, 0, NULL); goto out; }
        if (has(p, "ghost") && i == 1) {
            void *own = job->userdata;
            job->userdata = job->model->last_userdata;
            tell(job, NORMAL, "GHOST ", 6, 666, NULL);
            job->userdata = own;
        }
        token = 100 + i + 1000 * job->adapter; /* an adapter says other words */
        if (say) {
            int begin = i * piece, stop = begin + piece < length ? begin + piece : length, before = open;
            open = open_bytes(say, stop);
            if (is(p, "waiting", "again")) begin -= before;
            if (is(p, "waiting", "null")) begin = unsaid;
            text = say + begin, size = stop - begin;
            unsaid = open ? unsaid : stop;
        } else size = snprintf(counted, sizeof counted, "%s%s%s:%d ", id ? id : "t", *adapter ? "@" : "", adapter, i);
        if (in_finish && i == count - 1) break;
        bool empty = i == number(p, "empty", -1) || (open && is(p, "waiting", "null"));
        tell(job, open ? WAITING : NORMAL, empty ? NULL : text, size, token, NULL);
        job->sent++;
        rest(number(p, "pace", 0) + job->model->token_ms);
    }
    if (!interrupted(job)) end(job, text, size, token);
out:
    free(say), free(id);
}

/* The arrays live for the callback only. */
static void compute(Job *job) {
    int rows = 3, columns = 7;
    float values[21];
    RKLLMResult result;
    memset(&result, 0, sizeof result);
    for (int i = 0; i < 21; i++) values[i] = i + 0.5f;
    if (has(job->prompt, "huge")) rows = columns = INT32_MAX;
    if (job->infer->mode == 1) result.last_hidden_layer = (RKLLMResultLastHiddenLayer){values, columns, rows};
#if RELEASE >= R120
    if (job->infer->mode == 2) result.logits = (RKLLMResultLogits){values, columns, rows};
#endif
    tell(job, RELEASE == R114 ? HIDDEN : NORMAL, NULL, 0, 0, &result);
    memset(values, 0xff, sizeof values);
    finish(job, NULL, 0, 0);
}

static void hang(void) {
    pthread_mutex_lock(&lock);
    hanging++;
    for (int seen = releases; seen == releases;) pthread_cond_wait(&released, &lock);
    hanging--;
    pthread_mutex_unlock(&lock);
}

static void *serve(void *argument) {
    Job *job = argument;
    if (has(job->prompt, "hang")) return hang(), NULL;
    prefill(job);
    if (job->infer->mode) compute(job);
    else speak(job);
    return NULL;
}

/* Has the caller's own tokenizer and embedder make something of a prompt; -1 where they will not. */
static int ask_hooks(const Model *model, const char *prompt) {
#if RELEASE >= R130
    const RKLLMCallback *hooks = &model->callbacks;
    if (!prompt || !hooks->tokenizer_callback) return 0;
    int32_t ids[64];
    int room = number(prompt, "room", 64);
    int count = hooks->tokenizer_callback(hooks->tokenizer_userdata, prompt, strlen(prompt), ids, room);
    if (count < 0 || count > room) return -1;
    int total = 0;
    for (int i = 0; i < count; i++) total += ids[i];
    put(", \"ids\": %d, \"ids_sum\": %d", count, total);
    if (!hooks->embed_callback || !count) return 0;
    float rows[64 * 64];
    size_t floats = (size_t)count * model->width, size = floats * (has(prompt, "half") ? 2 : 4);
    if (floats > 64 * 64 || hooks->embed_callback(hooks->embed_userdata, ids, count, rows, size)) return -1;
    const uint16_t *halves = (const uint16_t *)rows;
    if (has(prompt, "half")) put(", \"first_half\": %u", halves[0]);
    else put(", \"rows_sum\": %.9g", sum(rows, floats));
#else
    (void)model, (void)prompt;
#endif
    return 0;
}

static void put_attention(const Model *model) {
#if RELEASE >= R121
    const RKLLMCrossAttnParam *a = &model->attention;
    if (a->num_tokens)
        put(", \"attention\": [%.9g, %.9g, %.9g, %d]", a->encoder_k_cache[0], a->encoder_v_cache[0],
            sum(a->encoder_mask, a->num_tokens), a->encoder_pos[a->num_tokens - 1]);
#else
    (void)model;
#endif
}

/* One run, in the thread that it is called in. The caller's structs are read here: in an asynchronous run they must
 * still be there. */
static int run(Model *model, const RKLLMInput *input, const RKLLMInferParam *infer, void *userdata, const char *name) {
    Given given;
    put("{\"call\": \"%s\", \"at\": %.3f, \"userdata\": %zu, \"thread\": %zu", name, now_ms(), (size_t)userdata,
        (size_t)pthread_self());
    int refused = take_input(input, &given, model->width, model->image_tokens), adapter = 0;
    int limit = take_infer(infer, model->max_new_tokens, &model->adapters, &adapter);
    bool reused = model->cache && given.prompt && !strncmp(given.prompt, model->cache, strlen(model->cache));
    put(", \"reused\": %d", reused ? (int)strlen(model->cache) : 0);
    refused |= ask_hooks(model, given.prompt);
    put_attention(model);
    put("}\n");
    if (model->cache && input->input_type == 3) violation("images with a prompt cache");
    if (model->sticky && model->kv) adapter = model->kv_adapter;
    model->kv_adapter = adapter;
    int tokens = given.floats / model->width + given.n_ids + (given.prompt ? (strlen(given.prompt) + 3) / 4 : 0);
    Job job = {model, input, infer, strdup(given.prompt ? given.prompt : ""), userdata, 0, 0, limit, tokens, adapter, 0, 0};
    model->deaf = number(job.prompt, "deaf", 0);
    job.code = refused || has(job.prompt, "fail") ? -1 : number(job.prompt, "rc", 0);
    uint64_t before = hash_given(&given);
    if (!refused && !has(job.prompt, "fail")) {
        pthread_t own;
        if (has(job.prompt, "thread") && !pthread_create(&own, NULL, serve, &job)) pthread_join(own, NULL);
        else serve(&job);
        save_cache(infer, job.prompt);
    }
    if (hash_given(&given) != before) violation("the input changed during the run");
    print_run(job.sent);
    put("{\"call\": \"returned\", \"at\": %.3f, \"userdata\": %zu, \"tokens\": %d, \"code\": %d}\n", now_ms(),
        (size_t)userdata, job.sent, job.code);
    pthread_mutex_lock(&lock);
    model->kv += 4 + job.sent, model->ran = 1, model->running = false, model->last_userdata = userdata;
    pthread_mutex_unlock(&lock);
    free(job.prompt);
    return job.code;
}

static bool take_turn(Model *model, bool async) {
    if (model->async != async) violation("a run that is asynchronous where the model is not, or the other way");
    if (model->late_started) pthread_join(model->late, NULL), model->late_started = false;
    pthread_mutex_lock(&lock);
    bool busy = model->running;
    model->running = true, model->aborted = false, model->aborts = 0;
    pthread_mutex_unlock(&lock);
    if (busy) violation("a second run on a handle");
    return !busy;
}

EXPORT int rkllm_run(LLMHandle handle, RKLLMInput *input, RKLLMInferParam *infer, void *userdata) {
    Model *model = live(handle, "rkllm_run");
    if (!model || !input || !infer) return violation("rkllm_run with a NULL"), -1;
    return take_turn(model, false) ? run(model, input, infer, userdata, "run") : -1;
}

typedef struct { Model *model; RKLLMInput *input; RKLLMInferParam *infer; void *userdata; } Errand;

static void *run_later(void *argument) {
    Errand errand = *(Errand *)argument;
    free(argument);
    rest(5);
    run(errand.model, errand.input, errand.infer, errand.userdata, "run_async");
    return NULL;
}

EXPORT int rkllm_run_async(LLMHandle handle, RKLLMInput *input, RKLLMInferParam *infer, void *userdata) {
    Model *model = live(handle, "rkllm_run_async");
    if (!model || !input || !infer) return violation("rkllm_run_async with a NULL"), -1;
    if (!take_turn(model, true)) return -1;
    if (model->runner_started) pthread_join(model->runner, NULL);
    Errand *errand = malloc(sizeof *errand);
    *errand = (Errand){model, input, infer, userdata};
    model->runner_started = !pthread_create(&model->runner, NULL, run_later, errand);
    return model->runner_started ? 0 : -1;
}

EXPORT int rkllm_abort(LLMHandle handle) {
    Model *model = live(handle, "rkllm_abort");
    if (!model) return -1;
    pthread_mutex_lock(&lock);
    bool running = model->running;
    if (running && ++model->aborts > model->deaf) model->aborted = true;
    pthread_mutex_unlock(&lock);
    put("{\"call\": \"abort\", \"running\": %d}\n", running);
    return running ? 0 : -1;
}

EXPORT int rkllm_is_running(LLMHandle handle) {
    Model *model = live(handle, "rkllm_is_running");
    if (!model) return -1;
    pthread_mutex_lock(&lock);
    bool running = model->running && !model->mute;
    pthread_mutex_unlock(&lock);
    return RELEASE >= R130 ? running : running ? 0 : -1; /* 0 for yes, until a release turned it round */
}

/* ---- the rest ------------------------------------------------------------------------------------------------ */

EXPORT int rkllm_load_lora(LLMHandle handle, RKLLMLoraAdapter *adapter) {
    Model *model = idle(handle, "rkllm_load_lora");
    if (!model || !adapter) return -1;
    put("{\"call\": \"load_lora\", \"path\": %s, \"name\": %s, \"scale\": %.7g}\n",
        quoted(adapter->lora_adapter_path), quoted(adapter->lora_adapter_name), adapter->scale);
    return remember(&model->adapters, adapter->lora_adapter_name);
}

/* A prompt cache of the stand-in is a file with the prompt in it. */
EXPORT int rkllm_load_prompt_cache(LLMHandle handle, const char *path) {
    Model *model = idle(handle, "rkllm_load_prompt_cache");
    if (!model) return -1;
    put("{\"call\": \"load_prompt_cache\", \"path\": %s}\n", quoted(path));
    if (model->cache) return violation("a second prompt cache"), -1;
    return (model->cache = load_cache(path)) ? 0 : -1;
}

EXPORT int rkllm_release_prompt_cache(LLMHandle handle) {
    Model *model = idle(handle, "rkllm_release_prompt_cache");
    if (!model) return -1;
    put("{\"call\": \"release_prompt_cache\"}\n");
    if (!model->cache) violation("no prompt cache to release");
    free(model->cache), model->cache = NULL;
    return 0;
}

#if RELEASE >= R121
EXPORT int rkllm_clear_kv_cache(LLMHandle handle, int keep_system_prompt, int *start, int *stop) {
    int from = start ? *start : -1, to = stop ? *stop : -1;
#elif RELEASE >= R120
EXPORT int rkllm_clear_kv_cache(LLMHandle handle, int keep_system_prompt) {
    int from = -1, to = -1;
#endif
#if RELEASE >= R120
    Model *model = idle(handle, "rkllm_clear_kv_cache");
    if (!model) return -1;
    put("{\"call\": \"clear\", \"keep_system_prompt\": %d, \"start\": %d, \"end\": %d}\n", keep_system_prompt, from, to);
    model->kv_adapter = 0;
    if (!model->ran) return -1; /* nothing to clear yet: a runtime may well call that a failure */
    model->kv = from >= 0 ? model->kv - (to - from) : 0;
    return model->clear_code;
}

EXPORT int rkllm_set_chat_template(LLMHandle handle, const char *system, const char *prefix, const char *postfix) {
    if (!idle(handle, "rkllm_set_chat_template")) return -1;
    put("{\"call\": \"set_chat_template\", \"system\": %s, \"prefix\": %s, \"postfix\": %s}\n", quoted(system),
        quoted(prefix), quoted(postfix));
    return system && prefix && postfix ? 0 : -1;
}
#endif

#if RELEASE >= R121
EXPORT int rkllm_get_kv_cache_size(LLMHandle handle, int *sizes) {
    Model *model = idle(handle, "rkllm_get_kv_cache_size");
    if (!model || !sizes) return -1;
    *sizes = model->kv;
    return 0;
}

EXPORT int rkllm_set_function_tools(LLMHandle handle, const char *system, const char *tools, const char *response) {
    if (!idle(handle, "rkllm_set_function_tools")) return -1;
    put("{\"call\": \"set_function_tools\", \"system\": %s, \"tools\": %s, \"response\": %s}\n", quoted(system),
        quoted(tools), quoted(response));
    return system && tools && response ? 0 : -1;
}

EXPORT int rkllm_set_cross_attn_params(LLMHandle handle, RKLLMCrossAttnParam *params) {
    Model *model = idle(handle, "rkllm_set_cross_attn_params");
    if (!model || !params || !model->cross) return -1;
    model->attention = *params; /* the arrays stay the caller's, and are read in each run */
    put("{\"call\": \"set_cross_attn_params\", \"num_tokens\": %d}\n", params->num_tokens);
    return 0;
}
#endif
