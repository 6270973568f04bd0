// What the Python side asks of the library itself.
#include "arguments.hpp"
#include "tasks.hpp"

extern "C" {

int64_t hpbench_abi() { return hpbench::ABI; }
int64_t hpbench_task(const char* name) { return hpbench::task_index(name); }
}
