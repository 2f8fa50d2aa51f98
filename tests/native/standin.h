/* The stand-in's note-taking, and the words in brackets that it obeys. */
#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define EXPORT __attribute__((visibility("default")))

/* ---- what was seen ------------------------------------------------------------------------------------------- */

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char *report;
static size_t report_size, report_room;

/* Adds to this thread's line, which goes into the report when it ends, and into the file that RKVLM_STANDIN_REPORT
 * names: of a process that has ended nothing else is left. */
static void put(const char *format, ...) {
    static _Thread_local char line[16384];
    static _Thread_local size_t size;
    va_list args;
    va_start(args, format);
    int more = vsnprintf(line + size, sizeof line - size, format, args);
    va_end(args);
    if (more < 0 || (size += more) >= sizeof line) abort();
    if (line[size - 1] != '\n') return;
    pthread_mutex_lock(&lock);
    if (report_size + size + 1 > report_room) {
        report_room = (report_room + size + 1) * 2;
        report = realloc(report, report_room);
        if (!report) abort();
    }
    memcpy(report + report_size, line, size + 1);
    report_size += size;
    const char *path = getenv("RKVLM_STANDIN_REPORT");
    FILE *file = path ? fopen(path, "a") : NULL;
    if (file) fputs(line, file), fclose(file);
    size = 0;
    pthread_mutex_unlock(&lock);
}

/* A JSON string of at most 400 bytes, or null. Four results live at once. */
static const char *quoted(const char *text) {
    static _Thread_local char buffers[4][2500];
    static _Thread_local int turn;
    char *out = buffers[turn = (turn + 1) % 4], *at = out;
    if (!text) return "null";
    *at++ = '"';
    for (int i = 0; text[i] && i < 400; i++) {
        unsigned char c = text[i];
        if (c < 32 || c == '"' || c == '\\') at += sprintf(at, "\\u%04x", c);
        else *at++ = c;
    }
    strcpy(at, "\"");
    return out;
}

static void violation(const char *what) { put("{\"violation\": \"%s\"}\n", what); }

EXPORT const char *standin_report(void) { return report ? report : ""; }

EXPORT void standin_reset(void) {
    pthread_mutex_lock(&lock);
    report_size = 0;
    if (report) *report = 0;
    pthread_mutex_unlock(&lock);
}

/* ---- words in brackets --------------------------------------------------------------------------------------- */

/* The value of [word=value], "" for [word], NULL where it is not; for the caller to free. */
static char *word(const char *text, const char *name) {
    size_t length = strlen(name);
    for (const char *at = text; at && (at = strchr(at, '[')); at++) {
        if (strncmp(at + 1, name, length)) continue;
        const char *value = at + 1 + length, *end = strchr(value, ']');
        if (!end || (*value != '=' && *value != ']')) continue;
        return *value == ']' ? strdup("") : strndup(value + 1, end - value - 1);
    }
    return NULL;
}

static bool has(const char *text, const char *name) {
    char *value = word(text, name);
    free(value);
    return value != NULL;
}

static int number(const char *text, const char *name, int otherwise) {
    char *value = word(text, name);
    int result = value ? atoi(value) : otherwise;
    free(value);
    return result;
}

static double real(const char *text, const char *name, double otherwise) {
    char *value = word(text, name);
    double result = value ? atof(value) : otherwise;
    free(value);
    return result;
}

static bool is(const char *text, const char *name, const char *wanted) {
    char *value = word(text, name);
    bool result = value && !strcmp(value, wanted);
    free(value);
    return result;
}

/* ---- time ---------------------------------------------------------------------------------------------------- */

static double now_ms(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1e3 + t.tv_nsec / 1e6;
}

static void rest(double ms) {
    struct timespec t = {(time_t)(ms / 1e3), (long)(ms * 1e6) % 1000000000L};
    if (ms > 0) while (nanosleep(&t, &t) && errno == EINTR);
}
