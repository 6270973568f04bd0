// Dynamics in float64: classic control, equal to hpbench/tasks/classic_dynamics.py, which equals Gymnasium's, and the grid
// worlds, equal to hpbench/tasks/grid_dynamics.py.
#pragma once

#include <cstdint>

namespace hpbench {

// Leading columns of every physics row.
enum Physics { REWARD_SCALE, OBSERVATION_NOISE, ACTION_DELAY, SPECIFIC };

struct Dynamics {
    const char* name;
    int64_t state_size, reset_draws;
    void (*reset)(const float* uniforms, const double* physics, double* state);
    void (*observe)(const double* state, const double* physics, float* observation);
    // `choice` for discrete actions, `action` for continuous ones. Returns whether the episode terminated.
    bool (*step)(double* state, int64_t choice, const float* action, const double* physics, double* reward);
};

extern const Dynamics GRID_TABLE[];  // tasks_grid.cpp
extern const int64_t GRID_COUNT;

const Dynamics& task(int64_t index);
int64_t task_index(const char* name);  // -1: unknown

}  // namespace hpbench
