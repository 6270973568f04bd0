// One PPO learner: its view of the shared tensors, its rollout, its update. The algorithm is that of hpbench/learners/ppo.py.
#pragma once

#include <algorithm>
#include <cmath>
#include <numeric>
#include <tuple>
#include <utility>
#include <vector>

#include "network.hpp"
#include "optimiser.hpp"
#include "plasticity.hpp"
#include "ppo.hpp"
#include "ppo_loss.hpp"
#include "random.hpp"
#include "worlds.hpp"

namespace hpbench::ppo {

constexpr double NORMALISED_LIMIT = 10.0;

class Member {
  public:
    // Scratch memory for any member of the population; `attach` chooses which.
    explicit Member(const Arguments& a)
        : a_(a), simulator_(a), batch_(a.envs * a.steps),
          rows_(static_cast<size_t>(std::max(batch_ + a.envs, a.episodes))),
          actor_({int(a.observation), int(a.first), int(a.second), int(a.actions)}, rows_),
          critic_({int(a.observation), int(a.first), int(a.second), 1}, rows_), actor_size_(actor_shape().size()),
          critic_size_(critic_shape().size()), gradient_(a.parameters_size), before_(a.parameters_size),
          input_(rows_ * a.observation), finals_(rows_ * a.observation), raw_(a.normalize_observation ? rows_ * a.observation : 0),
          output_gradient_(rows_ * a.actions), value_gradient_(rows_), advantage_(rows_), log_p_(a.actions), order_(batch_) {}

    void attach(int64_t m);
    void train();
    void evaluate(double* returns, int64_t* lengths);

  private:
    Shape actor_shape() const { return {int(a_.observation), int(a_.first), int(a_.second), int(a_.actions)}; }
    Shape critic_shape() const { return {int(a_.observation), int(a_.first), int(a_.second), 1}; }

    Draws draws(Stream stream) { return Draws(keys_[stream], calls_[stream]++); }
    float hyperparameter(Hyperparameter h) const { return static_cast<float>(hyper_[h]); }

    void collect();
    void estimate();
    void scale_rewards();
    void update();
    void minibatch(const std::pair<uint32_t, uint32_t>* order, int count);
    void measure();

    float sample(const float* output, Draws& draws, uint64_t index, float* action) const;
    void normalise(const float* raw, float* out, int64_t rows) const;
    static void merge_moments(double* mean, double* variance, double* count, const double* batch_mean,
                              const double* batch_variance, int64_t size, double batch);
    const float* log_std() const { return parameters_ + actor_size_ + critic_size_; }
    int64_t draws_per_action() const { return a_.discrete ? 1 : 2 * a_.width; }

    const Arguments& a_;
    Simulator simulator_;
    int64_t batch_;
    size_t rows_;
    Network<Tanh> actor_, critic_;
    size_t actor_size_, critic_size_;
    std::vector<float> gradient_, before_, input_, finals_, raw_, output_gradient_, value_gradient_, advantage_, log_p_;
    std::vector<std::pair<uint32_t, uint32_t>> order_;

    int64_t m_ = 0;
    const double* hyper_;
    const int64_t* keys_;
    int64_t* calls_;
    float* parameters_;
    double* totals_;
    float *observations_, *actions_, *log_probs_, *values_, *rewards_, *done_, *truncated_, *final_values_, *advantages_, *returns_,
        *last_values_;
    Worlds worlds_;
};

}  // namespace hpbench::ppo
