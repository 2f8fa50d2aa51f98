/* What of librknnrt.so's interface a Python encoder reaches, from releases 2.3.2 and 2.5.0, which do not differ here. */
#include <stdint.h>

typedef uint64_t rknn_context;

enum { SUCC = 0, FAIL = -1, MALLOC_FAIL = -4, PARAM_INVALID = -5, MODEL_INVALID = -6, CTX_INVALID = -7,
       INPUT_INVALID = -8, OUTPUT_INVALID = -9, TARGET_PLATFORM_UNMATCH = -13 };
enum { IN_OUT_NUM = 0, INPUT_ATTR = 1, OUTPUT_ATTR = 2, SDK_VERSION = 5, INPUT_DYNAMIC_RANGE = 13 };
enum { FLOAT32 = 0, FLOAT16 = 1, UINT8 = 3 };
enum { NCHW = 0, NHWC = 1, UNDEFINED = 3 };

typedef struct { uint32_t n_input, n_output; } rknn_input_output_num;

typedef struct { char api_version[256], drv_version[256]; } rknn_sdk_version;

typedef struct {
    uint32_t index, n_dims, dims[16];
    char name[256];
    uint32_t n_elems, size;
    int32_t fmt, type, qnt_type;
    int8_t fl;
    int32_t zp;
    float scale;
    uint32_t w_stride, size_with_stride;
    uint8_t pass_through;
    uint32_t h_stride;
} rknn_tensor_attr;

typedef struct {
    uint32_t index;
    void *buf;
    uint32_t size;
    uint8_t pass_through;
    int32_t type, fmt;
} rknn_input;

typedef struct {
    uint8_t want_float, is_prealloc;
    uint32_t index;
    void *buf;
    uint32_t size;
} rknn_output;

/* 376 is what the vendor's runtime says of its own; the others follow from the fields. */
_Static_assert(sizeof(rknn_tensor_attr) == 376, "rknn_tensor_attr");
_Static_assert(sizeof(rknn_input) == 32 && sizeof(rknn_output) == 24, "rknn_input, rknn_output");
_Static_assert(sizeof(rknn_input_output_num) == 8 && sizeof(rknn_sdk_version) == 512, "queries");
