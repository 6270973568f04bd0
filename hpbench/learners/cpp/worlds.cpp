#include "worlds.hpp"

namespace hpbench {

Worlds Simulator::training(int64_t m) const {
    const int64_t env = m * a_.envs;
    return {a_.env_state + env * a_.state_size, a_.env_elapsed + env, a_.env_return + env,
            a_.env_queue + env * a_.delay_slots * a_.width, a_.env_observation + env * a_.observation};
}

void Simulator::observe(const Worlds& w, int64_t e, Draws& noise, uint64_t noise_index) {
    float* out = w.observation + e * a_.observation;
    dynamics_.observe(w.state + e * a_.state_size, physics_, out);
    const float size = static_cast<float>(physics_[OBSERVATION_NOISE]);
    if (size == 0.0f) return;
    for (int64_t j = 0; j < a_.observation; ++j) out[j] += size * noise.normal(noise_index + 2 * j);
}

void Simulator::restart(const Worlds& w, int64_t e, Draws& reset, uint64_t reset_index, Draws& noise, uint64_t noise_index) {
    float uniforms[8];
    for (int64_t j = 0; j < a_.reset_draws; ++j) uniforms[j] = reset.uniform(reset_index + j);
    dynamics_.reset(uniforms, physics_, w.state + e * a_.state_size);
    w.elapsed[e] = 0;
    w.total[e] = 0.0;
    std::fill_n(w.queue + e * a_.delay_slots * a_.width, a_.delay_slots * a_.width, 0.0f);
    observe(w, e, noise, noise_index);
}

Outcome Simulator::step(const Worlds& w, int64_t e, const float* action, Draws& noise, uint64_t noise_index) {
    float* queue = w.queue + e * a_.delay_slots * a_.width;
    const int64_t delay = static_cast<int64_t>(physics_[ACTION_DELAY]);
    const float* applied = delay == 0 ? action : queue + (delay - 1) * a_.width;
    int64_t choice = 0;
    if (a_.discrete)
        choice = static_cast<int64_t>(applied[0]);
    else
        for (int64_t j = 0; j < a_.width; ++j) {
            float low = static_cast<float>(a_.action_low), high = static_cast<float>(a_.action_high);
            applied_[j] = applied[j] < low ? low : applied[j] > high ? high : applied[j];
        }
    Outcome o{};
    o.terminated = dynamics_.step(w.state + e * a_.state_size, choice, applied_.data(), physics_, &o.reward);
    std::copy_backward(queue, queue + (a_.delay_slots - 1) * a_.width, queue + a_.delay_slots * a_.width);
    std::copy_n(action, a_.width, queue);
    o.episode_length = ++w.elapsed[e];
    o.episode_return = w.total[e] += o.reward;
    o.truncated = !o.terminated && o.episode_length >= a_.max_episode_steps;
    observe(w, e, noise, noise_index);
    return o;
}

}  // namespace hpbench
