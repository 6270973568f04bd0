// The environments of a member: stepping, restarting and observing them, with action delay and observation noise. The same as
// hpbench/learners/rollout.py, and for evaluations hpbench/learners/play.py.
#pragma once

#include <algorithm>
#include <numeric>
#include <vector>

#include "arguments.hpp"
#include "random.hpp"
#include "tasks.hpp"

namespace hpbench {

// Where the running environments are: those of a member's training, or those of an evaluation.
struct Worlds {
    double* state;
    int64_t* elapsed;
    double* total;
    float *queue, *observation;
};

struct Outcome {
    double reward, episode_return;  // both unscaled
    int64_t episode_length;
    bool terminated, truncated;

    bool done() const { return terminated || truncated; }
};

// A task with the physics of one member; it moves worlds on.
//
// Tasks that run outside, in a simulator of Python's, step and restart all together: each step is announced with `send` and
// done by `advance`, each restart announced with `ask` and done by `renew`, before `step` and `restart` are called for what
// has become of it. For other tasks these four do nothing.
class Simulator {
  public:
    explicit Simulator(const Common& a) : a_(a), dynamics_(a.exchanges ? nullptr : &task(a.task)), applied_(a.width) {}

    void attach(int64_t m) {
        m_ = m;
        physics_ = a_.env_physics + m * a_.physics_size;
        if (a_.exchanges) outside_ = a_.exchanges + m;
    }
    double physics(Physics column) const { return physics_[column]; }

    // Those of member m, in the population's state.
    Worlds training(int64_t m) const;

    // Leaves the final observation in place; the caller restarts the episode if it ended. `action` is the policy's: continuous
    // ones are clipped here. Noise words start at `noise_index`.
    Outcome step(const Worlds& w, int64_t e, const float* action, Draws& noise, uint64_t noise_index);
    void restart(const Worlds& w, int64_t e, Draws& reset, uint64_t reset_index, Draws& noise, uint64_t noise_index);

    void send(const Worlds& w, int64_t e, const float* action) {
        if (outside_) announce(w, e, action);
    }
    void advance(Operation operation = STEP) {
        if (outside_) operate(operation);
    }
    void ask(int64_t e, bool terminated, Draws& reset, uint64_t reset_index);
    void renew() {
        if (asked_ > 0) operate(RESET);
        asked_ = 0;
    }

    // Plays complete episodes from fresh starts. `act(observations, index, rows, actions)` gets [rows, observation] and for
    // each row its number t * episodes + e, and fills [rows, width].
    template <class Act>
    void play(int64_t episodes, Draws reset, Draws noise, double* returns, int64_t* lengths, Act act);

  private:
    void observe(const Worlds& w, int64_t e, Draws& noise, uint64_t noise_index);
    void announce(const Worlds& w, int64_t e, const float* action);
    void operate(Operation operation);
    const float* applied(const Worlds& w, int64_t e, const float* action);

    const Common& a_;
    const Dynamics* dynamics_;
    Exchange* outside_ = nullptr;
    int64_t m_ = 0, asked_ = 0;
    const double* physics_ = nullptr;
    std::vector<float> applied_;
};

template <class Act>
void Simulator::play(int64_t episodes, Draws reset, Draws noise, double* returns, int64_t* lengths, Act act) {
    const int64_t size = a_.observation, width = a_.width;
    std::vector<double> state(episodes * a_.state_size), total(episodes);
    std::vector<int64_t> elapsed(episodes), running(episodes), index(episodes);
    std::vector<float> queue(episodes * a_.delay_slots * width), observation(episodes * size);
    std::vector<float> rows(episodes * size), actions(episodes * width);
    const Worlds w{state.data(), elapsed.data(), total.data(), queue.data(), observation.data()};
    for (int64_t e = 0; e < episodes; ++e) ask(e, false, reset, e * a_.reset_draws);
    renew();
    for (int64_t e = 0; e < episodes; ++e) restart(w, e, reset, e * a_.reset_draws, noise, e * 2 * size);
    std::iota(running.begin(), running.end(), 0);
    for (int64_t t = 0; !running.empty(); ++t) {
        for (size_t i = 0; i < running.size(); ++i) {
            std::copy_n(&observation[running[i] * size], size, &rows[i * size]);
            index[i] = t * episodes + running[i];
        }
        act(rows.data(), index.data(), static_cast<int>(running.size()), actions.data());
        for (size_t i = 0; i < running.size(); ++i) send(w, running[i], &actions[i * width]);
        advance(static_cast<int64_t>(running.size()) == episodes ? STEP : STEP_SOME);
        size_t left = 0;
        for (size_t i = 0; i < running.size(); ++i) {
            const int64_t e = running[i];
            const Outcome o = step(w, e, &actions[i * width], noise, (index[i] + episodes) * 2 * size);
            if (o.done())
                returns[e] = o.episode_return, lengths[e] = o.episode_length;
            else
                running[left++] = e;
        }
        running.resize(left);
    }
}

}  // namespace hpbench
