// One SAC learner: its view of the shared tensors, its rollout, its gradient step. The algorithm is that of
// hpbench/learners/sac.py, with the gradients written out.
#pragma once

#include <vector>

#include "network.hpp"
#include "random.hpp"
#include "sac.hpp"
#include "worlds.hpp"

namespace hpbench::sac {

constexpr int CRITICS = 2;

class Member {
  public:
    // Scratch memory for any member of the population; `attach` chooses which.
    explicit Member(const Arguments& a);

    void attach(int64_t m);
    void train();
    void evaluate(double* returns, int64_t* lengths);

  private:
    Draws draws(Stream stream) { return Draws(keys_[stream], calls_[stream]++); }
    float hyperparameter(Hyperparameter h) const { return static_cast<float>(hyper_[h]); }

    void rollout();
    void act(const float* output, Draws& draws, uint64_t index, bool warm_up, float* action) const;
    void scale(const float* action, float* scaled) const;
    void likely(const float* output, float* action) const;
    double value(const float* seen, const float* action);
    void count(const Outcome& o, int64_t e, const float* seen);

    // A gradient step and its parts, each on `batch_` transitions.
    void learn();
    void gather();
    void sample_actions(const float* output, int which);
    void join(const float* observation, const float* action);
    void minimum(Network<Relu>* networks);
    void probabilities(const float* output);
    void estimate_targets(float temperature);
    void improve_critics();
    void improve_actor_gaussian(float temperature);
    void improve_actor_categorical(float temperature);
    void improve_temperature();
    void follow();
    void adam_on(int64_t start, int64_t size, Hyperparameter rate);

    const Arguments& a_;
    const int64_t width_;    // of a stored action
    const int64_t inputs_;   // of a critic
    const int64_t outputs_;  // of the actor
    const int64_t values_;   // of a critic
    const size_t rows_;
    const Shape actor_shape_, critic_shape_;
    const int64_t actor_size_, critic_size_;
    Simulator simulator_;
    Network<Relu> actor_, critics_[CRITICS], targets_[CRITICS];
    std::vector<float> gradient_, before_;
    std::vector<float> observation_, next_observation_, action_, reward_, bootstrap_;  // the batch
    std::vector<float> noise_[2];            // for the actions at the next and at the present observation
    std::vector<float> squashed_, entropy_;  // actions, and the entropy of each row (or its estimate)
    std::vector<float> spread_;              // standard deviations; 0 where they are clamped
    std::vector<float> log_prob_, prob_;     // of the choices
    std::vector<float> input_, value_, target_, error_, output_gradient_, slope_, compact_;
    std::vector<int> rows_of_[CRITICS];

    int batch_ = 0;
    int64_t m_ = 0;
    const double* hyper_ = nullptr;
    const int64_t* keys_ = nullptr;
    int64_t* calls_ = nullptr;
    float* parameters_ = nullptr;
    double* totals_ = nullptr;
    Worlds worlds_{};
};

}  // namespace hpbench::sac
