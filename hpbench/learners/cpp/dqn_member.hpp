// One DQN learner: its view of the shared tensors, its steps, its gradient steps. The algorithm is that of
// hpbench/learners/dqn.py.
#pragma once

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "dqn.hpp"
#include "network.hpp"
#include "optimiser.hpp"
#include "plasticity.hpp"
#include "random.hpp"
#include "replay.hpp"
#include "worlds.hpp"

namespace hpbench::dqn {

constexpr int64_t MAX_BATCH = 512;  // bound of the hyperparameter

class Member {
  public:
    // Scratch memory for any member of the population; `attach` chooses which.
    explicit Member(const Arguments& a)
        : a_(a), simulator_(a), rows_(std::max({MAX_BATCH, a.envs, a.episodes, 2 * PLASTICITY_SAMPLE})), online_(shape(), rows_),
          target_(shape(), rows_), gradient_(a.parameters_size), before_(a.parameters_size), input_(rows_ * a.observation),
          next_(rows_ * a.observation), d_(rows_ * a.actions), error_(rows_), reward_(rows_), bootstrap_(rows_), row_(rows_) {}

    void attach(int64_t m);
    void train();
    void evaluate(double* returns, int64_t* lengths);

  private:
    Shape shape() const { return {int(a_.observation), int(a_.first), int(a_.second), int(a_.actions)}; }
    Draws draws(Stream stream) { return Draws(keys_[stream], calls_[stream]++); }
    float hyperparameter(Hyperparameter h) const { return static_cast<float>(hyper_[h]); }
    int64_t best(const float* values) const { return std::max_element(values, values + a_.actions) - values; }

    void rollout();
    void step(int64_t t, Draws& action, Draws& reset, Draws& noise);
    void count(int64_t e, const Outcome& o);
    int64_t due();
    void learn(Draws& words, int64_t first_word);
    void measure();

    const Arguments& a_;
    Simulator simulator_;
    int64_t rows_;
    Network<Relu> online_, target_;
    std::vector<float> gradient_, before_, input_, next_, d_, error_, reward_, bootstrap_;
    std::vector<int64_t> row_;
    std::vector<std::pair<int64_t, Outcome>> cut_;

    int64_t m_ = 0;
    const double* hyper_;
    const int64_t* keys_;
    int64_t *calls_, *steps_;
    float *parameters_, *targets_, *episode_value_;
    double *totals_, *episode_discounted_, *episode_weight_;
    Worlds worlds_;
    Replay replay_;
};

}  // namespace hpbench::dqn
