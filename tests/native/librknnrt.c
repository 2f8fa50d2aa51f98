/* A stand-in for librknnrt.so. It runs no model: it writes down what it is given, and gives numbers made of the picture.
 *
 * It takes .rknn files, the vendor's and those of rknn_file.py: tensors and target are read in the words at their end.
 * As in the vendor's, rknn_init copies the model. What it saw is read with standin_report(), as in librkllmrt.c; the
 * last picture's bytes with standin_input().
 *
 * Element i of output k is (byte of the picture at (i + 31 k) modulo its size, less 128) / 64.
 *
 * Words in the model's name, or in RKNN_STANDIN for any model:
 *   [init=CODE] [mask=CODE] [inputs=CODE] [run=CODE] [outputs=CODE] [attr=CODE]  that call fails with CODE
 *   [say=TEXT]  printed as an error of rknn_init's      [pace=MS]  what rknn_run takes at least
 *   [nan]       the first number of the first output is not one
 */
#include "rknn_structs.h"
#include "standin.h"

enum { TENSORS = 8, HEADER = 64 };

typedef struct {
    unsigned char *copy;
    const char *words;
    rknn_tensor_attr tensors[TENSORS];
    uint32_t inputs, outputs;
    bool fed, ran;
    float *given[TENSORS];
} Context;

static unsigned char *picture;
static size_t picture_size;

EXPORT const void *standin_input(size_t *size) { return *size = picture_size, picture; }

/* The value of a word of the model's, or of the environment's; NULL where neither has it. For the caller to free. */
static char *told(const Context *c, const char *name) {
    char *value = word(c->words, name);
    return value ? value : word(getenv("RKNN_STANDIN"), name);
}

static int failure(const Context *c, const char *call) {
    char *value = told(c, call);
    int code = value ? atoi(value) : 0;
    free(value);
    return code;
}

static void say(const char *level, const char *text) {
    fprintf(*level == 'E' ? stderr : stdout, "%s RKNN: [10:00:00.000] %s\n", level, text);
    fflush(stdout);
}

static Context *live(rknn_context context, const char *call) {
    if (!context) violation(call);
    return (Context *)(uintptr_t)context;
}

/* Whether a device tree names the target; a machine without one is any SoC. */
static bool is_target(const char *config) {
    const char *at = strstr(config, "\"target_platform\":[\"");
    char soc[16], tree[512] = "";
    FILE *file = fopen("/proc/device-tree/compatible", "rb");
    if (!file) return true;
    size_t size = fread(tree, 1, sizeof tree - 1, file);
    fclose(file);
    for (size_t i = 0; i < size; i++) tree[i] = tree[i] ? tree[i] : ' ';
    return !at || sscanf(at + 20, "%15[a-z0-9]", soc) != 1 || strstr(tree, soc);
}

/* Reads `"size":[1,3,112,112]` of each tensor: first the input, then the outputs. */
static void read_tensors(Context *c, const char *config) {
    const char *at = config, *url = config;
    c->inputs = 1;
    for (int n = 0; n < TENSORS && (at = strstr(at, "\"size\":[")); n++) {
        rknn_tensor_attr *t = &c->tensors[n];
        t->index = n ? n - 1 : 0, t->n_elems = 1;
        for (at += 7; *at != ']' && t->n_dims < 16; t->n_elems *= t->dims[t->n_dims++]) t->dims[t->n_dims] = strtoul(at + 1, (char **)&at, 10);
        if ((url = strstr(at, "\"url\":\""))) sscanf(url + 7, "%255[^\"]", t->name);
        t->fmt = UNDEFINED, t->type = FLOAT16, t->scale = 1, t->size = t->n_elems * 2;
        if (t->n_dims == 4 && t->dims[1] == 3) {
            t->dims[1] = t->dims[2], t->dims[2] = t->dims[3], t->dims[3] = 3;
            t->fmt = NHWC, t->w_stride = t->dims[2];
        }
        c->outputs = n;
    }
}

EXPORT int rknn_init(rknn_context *context, void *model, uint32_t size, uint32_t flag, void *extend) {
    uint64_t body = 0;
    if (size >= HEADER) memcpy(&body, (char *)model + 16, sizeof body);
    bool valid = size > HEADER && !memcmp(model, "RKNN", 4) && body < size - HEADER - 8;
    put("{\"call\": \"rknn_init\", \"size\": %u, \"flag\": %u, \"extend\": %d}\n", size, flag, extend != NULL);
    say("I", "RKNN Runtime Information, librknnrt version: stand-in");
    if (!valid) return say("E", "parseRKNN from buffer: Invalid RKNN format!"), FAIL;
    Context *c = calloc(1, sizeof *c);
    c->copy = malloc(size + 1);
    memcpy(c->copy, model, size);
    c->copy[size] = 0;
    c->words = (char *)c->copy + HEADER + body + 8;
    int code = failure(c, "init");
    char *why = told(c, "say");
    if (!is_target(c->words)) why = strdup("The rknn model does not match the RKNPU hardware version!"), code = FAIL;
    if (why) say("E", why);
    if (code) {
        say("E", "rknn_init, load model failed!");
        free(why), free(c->copy), free(c);
        return code;
    }
    free(why);
    read_tensors(c, c->words);
    *context = (uintptr_t)c;
    return SUCC;
}

EXPORT int rknn_destroy(rknn_context context) {
    Context *c = live(context, "rknn_destroy");
    put("{\"call\": \"rknn_destroy\"}\n");
    for (uint32_t i = 0; i < TENSORS; i++) if (c->given[i]) violation("outputs were not released");
    free(c->copy), free(c);
    return SUCC;
}

EXPORT int rknn_set_core_mask(rknn_context context, int mask) {
    Context *c = live(context, "rknn_set_core_mask");
    put("{\"call\": \"rknn_set_core_mask\", \"mask\": %d}\n", mask);
    if ((mask < 0 || mask > 4) && mask != 7 && mask != 0xffff) return PARAM_INVALID;
    return failure(c, "mask");
}

EXPORT int rknn_query(rknn_context context, int command, void *info, uint32_t size) {
    Context *c = live(context, "rknn_query");
    put("{\"call\": \"rknn_query\", \"command\": %d, \"size\": %u}\n", command, size);
    rknn_tensor_attr *attr = info;
    switch (command) {
    case IN_OUT_NUM:
        if (size < sizeof(rknn_input_output_num)) return PARAM_INVALID;
        *(rknn_input_output_num *)info = (rknn_input_output_num){c->inputs, c->outputs};
        return SUCC;
    case INPUT_ATTR:
    case OUTPUT_ATTR:
        if (size < sizeof *attr || attr->index >= (command == INPUT_ATTR ? c->inputs : c->outputs)) return PARAM_INVALID;
        *attr = c->tensors[command == INPUT_ATTR ? 0 : 1 + attr->index];
        return failure(c, "attr");
    case SDK_VERSION:
        if (size < sizeof(rknn_sdk_version)) return PARAM_INVALID;
        strcpy(((rknn_sdk_version *)info)->api_version, "2.5.0 (stand-in)");
        strcpy(((rknn_sdk_version *)info)->drv_version, "0.9.8");
        return SUCC;
    case INPUT_DYNAMIC_RANGE:
        say("W", "query RKNN_QUERY_INPUT_DYNAMIC_RANGE error, rknn model is static shape type");
        return MODEL_INVALID;
    }
    return violation("rknn_query of an unknown kind"), PARAM_INVALID;
}

/* The wheel looks for it, and calls it for models of no fixed shape only. */
EXPORT int rknn_set_input_shapes(rknn_context context, uint32_t count, rknn_tensor_attr *attr) {
    (void)context, (void)count, (void)attr;
    return violation("rknn_set_input_shapes of a fixed shape"), PARAM_INVALID;
}

EXPORT int rknn_inputs_set(rknn_context context, uint32_t count, rknn_input *inputs) {
    Context *c = live(context, "rknn_inputs_set");
    if (count != c->inputs) return violation("rknn_inputs_set with another number of inputs"), INPUT_INVALID;
    put("{\"call\": \"rknn_inputs_set\", \"type\": %d, \"fmt\": %d, \"pass_through\": %d, \"size\": %u, \"address\": %zu}\n",
        inputs->type, inputs->fmt, inputs->pass_through, inputs->size, (size_t)inputs->buf);
    if (inputs->size != c->tensors->n_elems) return violation("rknn_inputs_set of another size"), INPUT_INVALID;
    picture = realloc(picture, picture_size = inputs->size);
    memcpy(picture, inputs->buf, picture_size);
    c->fed = true;
    return failure(c, "inputs");
}

EXPORT int rknn_run(rknn_context context, void *extend) {
    Context *c = live(context, "rknn_run");
    double began = now_ms();
    if (!c->fed) violation("rknn_run without an input");
    rest(number(c->words, "pace", 0));
    c->fed = false, c->ran = true;
    put("{\"call\": \"rknn_run\", \"extend\": %d, \"began\": %.3f, \"ended\": %.3f}\n", extend != NULL, began, now_ms());
    return failure(c, "run");
}

EXPORT int rknn_outputs_get(rknn_context context, uint32_t count, rknn_output *outputs, void *extend) {
    Context *c = live(context, "rknn_outputs_get");
    put("{\"call\": \"rknn_outputs_get\", \"count\": %u, \"want_float\": %d, \"is_prealloc\": %d, \"extend\": %d}\n", count,
        outputs->want_float, outputs->is_prealloc, extend != NULL);
    if (!c->ran || count != c->outputs) return violation("rknn_outputs_get before a run, or of too many"), OUTPUT_INVALID;
    if (failure(c, "outputs")) return failure(c, "outputs");
    for (uint32_t k = 0; k < count; k++) {
        if (!outputs[k].want_float) return violation("outputs that are not float"), OUTPUT_INVALID;
        uint32_t elements = c->tensors[1 + k].n_elems;
        if (!outputs[k].is_prealloc) outputs[k].buf = c->given[k] = malloc(elements * sizeof(float));
        outputs[k].index = k, outputs[k].size = elements * sizeof(float);
        for (uint32_t i = 0; i < elements; i++) ((float *)outputs[k].buf)[i] = (picture[(i + 31 * k) % picture_size] - 128) / 64.0f;
        if (k == 0 && has(c->words, "nan")) *(uint32_t *)outputs[k].buf = 0x7fc00000;
    }
    return SUCC;
}

/* What was given is spoilt first: who kept a view of it shows it. */
EXPORT int rknn_outputs_release(rknn_context context, uint32_t count, rknn_output *outputs) {
    Context *c = live(context, "rknn_outputs_release");
    put("{\"call\": \"rknn_outputs_release\"}\n");
    for (uint32_t k = 0; k < count; k++) {
        if (outputs[k].is_prealloc || !c->given[k]) continue;
        memset(c->given[k], 0x5a, c->tensors[1 + k].n_elems * sizeof(float));
        free(c->given[k]);
        c->given[k] = NULL;
    }
    return SUCC;
}
