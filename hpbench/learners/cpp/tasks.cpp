#include "tasks.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <iterator>

namespace hpbench {
namespace {

constexpr double PI = 3.14159265358979323846;

double between(double low, double high, float u) { return low + (high - low) * static_cast<double>(u); }
double clamp(double x, double low, double high) { return x < low ? low : x > high ? high : x; }

// -- CartPole-v1 ----------------------------------------------------------------------------------------------------------

namespace cartpole {
enum { GRAVITY = SPECIFIC, CART_MASS, POLE_MASS, HALF_LENGTH, FORCE };
constexpr double TAU = 0.02, X_LIMIT = 2.4, ANGLE_LIMIT = 12 * 2 * PI / 360;

void reset(const float* u, const double*, double* s) {
    for (int i = 0; i < 4; ++i) s[i] = between(-0.05, 0.05, u[i]);
}
void observe(const double* s, const double*, float* o) {
    for (int i = 0; i < 4; ++i) o[i] = static_cast<float>(s[i]);
}
bool step(double* s, int64_t choice, const float*, const double* p, double* reward) {
    const double total_mass = p[POLE_MASS] + p[CART_MASS], pole = p[POLE_MASS] * p[HALF_LENGTH];
    const double force = choice == 1 ? p[FORCE] : -p[FORCE], cosine = std::cos(s[2]), sine = std::sin(s[2]);
    const double temp = (force + pole * (s[3] * s[3]) * sine) / total_mass;
    const double angular = (p[GRAVITY] * sine - cosine * temp) /
                           (p[HALF_LENGTH] * (4.0 / 3.0 - p[POLE_MASS] * (cosine * cosine) / total_mass));
    const double linear = temp - pole * angular * cosine / total_mass;
    s[0] += TAU * s[1];
    s[1] += TAU * linear;
    s[2] += TAU * s[3];
    s[3] += TAU * angular;
    *reward = 1.0;
    return s[0] < -X_LIMIT || s[0] > X_LIMIT || s[2] < -ANGLE_LIMIT || s[2] > ANGLE_LIMIT;
}
}  // namespace cartpole

// -- Acrobot-v1 -----------------------------------------------------------------------------------------------------------

namespace acrobot {
enum { GRAVITY = SPECIFIC, MASS_1, MASS_2, LENGTH_1, CENTER_1, CENTER_2, INERTIA, TORQUE };
constexpr double DT = 0.2, LIMIT_1 = 4 * PI, LIMIT_2 = 9 * PI;

void reset(const float* u, const double*, double* s) {
    for (int i = 0; i < 4; ++i) s[i] = static_cast<float>(between(-0.1, 0.1, u[i]));
}
void observe(const double* s, const double*, float* o) {
    o[0] = static_cast<float>(std::cos(s[0])), o[1] = static_cast<float>(std::sin(s[0]));
    o[2] = static_cast<float>(std::cos(s[1])), o[3] = static_cast<float>(std::sin(s[1]));
    o[4] = static_cast<float>(s[2]), o[5] = static_cast<float>(s[3]);
}
void derivative(const double* s, double torque, const double* p, double* out) {
    const double m1 = p[MASS_1], m2 = p[MASS_2], l1 = p[LENGTH_1], lc1 = p[CENTER_1], lc2 = p[CENTER_2];
    const double inertia = p[INERTIA], g = p[GRAVITY], c2 = std::cos(s[1]), s2 = std::sin(s[1]);
    const double d1 = m1 * (lc1 * lc1) + m2 * (l1 * l1 + lc2 * lc2 + 2 * l1 * lc2 * c2) + inertia + inertia;
    const double d2 = m2 * (lc2 * lc2 + l1 * lc2 * c2) + inertia;
    const double phi2 = m2 * lc2 * g * std::cos(s[0] + s[1] - PI / 2.0);
    const double phi1 = -m2 * l1 * lc2 * (s[3] * s[3]) * s2 - 2 * m2 * l1 * lc2 * s[3] * s[2] * s2 +
                        (m1 * lc1 + m2 * l1) * g * std::cos(s[0] - PI / 2) + phi2;
    const double acceleration = (torque + d2 / d1 * phi1 - m2 * l1 * lc2 * (s[2] * s[2]) * s2 - phi2) /
                                (m2 * (lc2 * lc2) + inertia - d2 * d2 / d1);
    out[0] = s[2], out[1] = s[3];
    out[2] = -(d2 * acceleration + phi1) / d1;
    out[3] = acceleration;
}
double wrap(double x) {
    while (x > PI) x -= 2 * PI;
    while (x < -PI) x += 2 * PI;
    return x;
}
bool step(double* s, int64_t choice, const float*, const double* p, double* reward) {
    const double torque = p[TORQUE] * static_cast<double>(choice - 1);
    double k[4][4], at[4];
    derivative(s, torque, p, k[0]);
    for (int stage = 1; stage < 4; ++stage) {
        const double dt = stage == 3 ? DT : DT / 2.0;
        for (int i = 0; i < 4; ++i) at[i] = s[i] + dt * k[stage - 1][i];
        derivative(at, torque, p, k[stage]);
    }
    for (int i = 0; i < 4; ++i) s[i] += DT / 6.0 * (k[0][i] + 2 * k[1][i] + 2 * k[2][i] + k[3][i]);
    s[0] = wrap(s[0]), s[1] = wrap(s[1]);
    s[2] = clamp(s[2], -LIMIT_1, LIMIT_1), s[3] = clamp(s[3], -LIMIT_2, LIMIT_2);
    const bool reached = -std::cos(s[0]) - std::cos(s[1] + s[0]) > 1.0;
    *reward = reached ? 0.0 : -1.0;
    return reached;
}
}  // namespace acrobot

// -- MountainCar-v0 and MountainCarContinuous-v0 --------------------------------------------------------------------------

namespace mountaincar {
enum { GRAVITY = SPECIFIC, FORCE, MAX_SPEED };
constexpr double LOW = -1.2, HIGH = 0.6;

void reset(const float* u, const double*, double* s) { s[0] = between(-0.6, -0.4, u[0]), s[1] = 0.0; }
void observe(const double* s, const double*, float* o) { o[0] = static_cast<float>(s[0]), o[1] = static_cast<float>(s[1]); }
void move(double* s, double acceleration, double max_speed) {
    s[1] = clamp(s[1] + acceleration, -max_speed, max_speed);
    s[0] = clamp(s[0] + s[1], LOW, HIGH);
    if (s[0] == LOW && s[1] < 0) s[1] = 0;
}
bool step(double* s, int64_t choice, const float*, const double* p, double* reward) {
    move(s, static_cast<double>(choice - 1) * p[FORCE] + std::cos(3 * s[0]) * -p[GRAVITY], p[MAX_SPEED]);
    *reward = -1.0;
    return s[0] >= 0.5 && s[1] >= 0.0;
}
bool step_continuous(double* s, int64_t, const float* action, const double* p, double* reward) {
    const double force = action[0];
    move(s, force * p[FORCE] - p[GRAVITY] * std::cos(3 * s[0]), p[MAX_SPEED]);
    const bool reached = s[0] >= 0.45 && s[1] >= 0.0;
    *reward = (reached ? 100.0 : 0.0) - force * force * 0.1;
    // Gymnasium keeps this state in float32.
    s[0] = static_cast<float>(s[0]), s[1] = static_cast<float>(s[1]);
    return reached;
}
}  // namespace mountaincar

// -- Pendulum-v1 ----------------------------------------------------------------------------------------------------------

namespace pendulum {
enum { GRAVITY = SPECIFIC, MASS, LENGTH };
constexpr double DT = 0.05, SPEED = 8.0;

void reset(const float* u, const double*, double* s) {
    s[0] = between(-PI, PI, u[0]), s[1] = between(-1.0, 1.0, u[1]);
}
void observe(const double* s, const double*, float* o) {
    o[0] = static_cast<float>(std::cos(s[0])), o[1] = static_cast<float>(std::sin(s[0])), o[2] = static_cast<float>(s[1]);
}
bool step(double* s, int64_t, const float* action, const double* p, double* reward) {
    const double torque = action[0];
    double angle = std::fmod(s[0] + PI, 2 * PI);
    if (angle < 0) angle += 2 * PI;
    angle -= PI;
    *reward = -(angle * angle + 0.1 * (s[1] * s[1]) + 0.001 * (torque * torque));
    const double gain = 3 * p[GRAVITY] / (2 * p[LENGTH]), push = 3.0 / (p[MASS] * (p[LENGTH] * p[LENGTH]));
    s[1] = clamp(s[1] + (gain * std::sin(s[0]) + push * torque) * DT, -SPEED, SPEED);
    s[0] += s[1] * DT;
    return false;
}
}  // namespace pendulum

const Dynamics TABLE[] = {
    {"cartpole", 4, 4, cartpole::reset, cartpole::observe, cartpole::step},
    {"acrobot", 4, 4, acrobot::reset, acrobot::observe, acrobot::step},
    {"mountaincar", 2, 1, mountaincar::reset, mountaincar::observe, mountaincar::step},
    {"mountaincar-continuous", 2, 1, mountaincar::reset, mountaincar::observe, mountaincar::step_continuous},
    {"pendulum", 2, 2, pendulum::reset, pendulum::observe, pendulum::step},
};

}  // namespace

constexpr int64_t CLASSIC_COUNT = static_cast<int64_t>(std::size(TABLE));

const Dynamics& task(int64_t index) { return index < CLASSIC_COUNT ? TABLE[index] : GRID_TABLE[index - CLASSIC_COUNT]; }

int64_t task_index(const char* name) {
    for (int64_t i = 0; i < CLASSIC_COUNT + GRID_COUNT; ++i)
        if (std::strcmp(task(i).name, name) == 0) return i;
    return -1;
}

}  // namespace hpbench
