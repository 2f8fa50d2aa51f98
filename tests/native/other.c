/* A library that says it is librkllmrt.so and has none of its functions. */
#include <stdio.h>

__attribute__((visibility("default"))) const char other_version[] = "RKLLM SDK (version: " RELEASE_NAME " | no functions)";

__attribute__((visibility("default"))) void other_hello(void) { puts(other_version); }
