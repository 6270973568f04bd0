#include "worlds.hpp"

namespace hpbench {

Worlds Simulator::training(int64_t m) const {
    const int64_t env = m * a_.envs;
    return {a_.env_state ? a_.env_state + env * a_.state_size : nullptr, a_.env_elapsed + env, a_.env_return + env,
            a_.env_queue + env * a_.delay_slots * a_.width, a_.env_observation + env * a_.observation};
}

void Simulator::observe(const Worlds& w, int64_t e, Draws& noise, uint64_t noise_index) {
    float* out = w.observation + e * a_.observation;
    if (outside_)
        std::copy_n(outside_->observation + e * a_.observation, a_.observation, out);
    else
        dynamics_->observe(w.state + e * a_.state_size, physics_, out);
    const float size = static_cast<float>(physics_[OBSERVATION_NOISE]);
    if (size == 0.0f) return;
    for (int64_t j = 0; j < a_.observation; ++j) out[j] += size * noise.normal(noise_index + 2 * j);
}

void Simulator::restart(const Worlds& w, int64_t e, Draws& reset, uint64_t reset_index, Draws& noise, uint64_t noise_index) {
    if (!outside_) {
        float uniforms[8];
        for (int64_t j = 0; j < a_.reset_draws; ++j) uniforms[j] = reset.uniform(reset_index + j);
        dynamics_->reset(uniforms, physics_, w.state + e * a_.state_size);
    }
    w.elapsed[e] = 0;
    w.total[e] = 0.0;
    std::fill_n(w.queue + e * a_.delay_slots * a_.width, a_.delay_slots * a_.width, 0.0f);
    observe(w, e, noise, noise_index);
}

// What acts now: the action of some steps ago, where the task has a delay, inside bounds.
const float* Simulator::applied(const Worlds& w, int64_t e, const float* action) {
    const int64_t delay = static_cast<int64_t>(physics_[ACTION_DELAY]);
    const float* chosen = delay == 0 ? action : w.queue + (e * a_.delay_slots + delay - 1) * a_.width;
    const float low = static_cast<float>(a_.action_low), high = static_cast<float>(a_.action_high);
    for (int64_t j = 0; j < a_.width; ++j)
        applied_[j] = a_.discrete ? chosen[j] : chosen[j] < low ? low : chosen[j] > high ? high : chosen[j];
    return applied_.data();
}

Outcome Simulator::step(const Worlds& w, int64_t e, const float* action, Draws& noise, uint64_t noise_index) {
    float* queue = w.queue + e * a_.delay_slots * a_.width;
    Outcome o{};
    if (outside_) {
        o.terminated = outside_->terminated[e];
        o.reward = outside_->reward[e];
    } else {
        const float* now = applied(w, e, action);
        const int64_t choice = a_.discrete ? static_cast<int64_t>(now[0]) : 0;
        o.terminated = dynamics_->step(w.state + e * a_.state_size, choice, now, physics_, &o.reward);
    }
    std::copy_backward(queue, queue + (a_.delay_slots - 1) * a_.width, queue + a_.delay_slots * a_.width);
    std::copy_n(action, a_.width, queue);
    o.episode_length = ++w.elapsed[e];
    o.episode_return = w.total[e] += o.reward;
    o.truncated = !o.terminated && o.episode_length >= a_.max_episode_steps;
    observe(w, e, noise, noise_index);
    return o;
}

// -- tasks that run outside -----------------------------------------------------------------------------------------------

void Simulator::announce(const Worlds& w, int64_t e, const float* action) {
    const float* now = applied(w, e, action);
    if (a_.discrete)
        outside_->choice[e] = static_cast<int64_t>(now[0]);
    else
        std::copy_n(now, a_.width, outside_->action + e * a_.width);
    outside_->which[e] = 1;
}

// The seed of a new episode has 31 bits, as in `external.episode_seeds`.
void Simulator::ask(int64_t e, bool terminated, Draws& reset, uint64_t reset_index) {
    if (!outside_ || (terminated && a_.restarts_itself)) return;
    const int64_t high = static_cast<int64_t>(reset.uniform(reset_index) * 0x1p16f);
    const int64_t low = static_cast<int64_t>(reset.uniform(reset_index + 1) * 0x1p15f);
    outside_->seed[e] = (high << 15) | low;
    outside_->which[e] = 1;
    ++asked_;
}

// Python clears `which`.
void Simulator::operate(Operation operation) {
    if (a_.operate(m_, operation) != 0) throw Stopped{};
}

}  // namespace hpbench
