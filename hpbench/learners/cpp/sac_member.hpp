// One SAC learner: its view of the shared tensors, its rollout, its gradient step. The algorithm is that of
// hpbench/learners/sac.py, with the gradients written out.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "network.hpp"
#include "random.hpp"
#include "sac.hpp"
#include "worlds.hpp"

namespace hpbench {

class SacMember {
  public:
    // Scratch memory for any member of the population; `attach` chooses which.
    explicit SacMember(const SacArguments& a);

    void attach(int64_t m);
    void train();
    void evaluate(double* returns, int64_t* lengths);

  private:
    using Net = Network<Relu>;

    Shape actor_shape() const { return {int(a_.observation), int(a_.first), int(a_.second), int(a_.discrete ? a_.actions : 2 * a_.actions)}; }
    Shape critic_shape() const {
        return {int(critic_inputs_), int(a_.first), int(a_.second), int(a_.discrete ? a_.actions : 1)};
    }
    Draws draws(Stream stream) { return Draws(keys_[stream], calls_[stream]++); }
    double& log_temperature_total();

    void rollout();
    void act(const float* output, Draws& draws, uint64_t index, bool warm_up, float* action) const;
    void scale(const float* action, float* scaled) const;
    void learn();

    void gather(int batch);
    void squash(const float* output, int batch, int which, Draws& noise);
    void with_actions(const float* observation, const float* action, int batch);
    void targets(int batch, float temperature);
    double critics(int batch, double* norm);
    double actor_gaussian(int batch, float temperature, double* loss);
    double actor_categorical(int batch, float temperature, double* loss);
    void adam_columns(int64_t start, int64_t size, SacHyperparameter rate);
    float float_of(SacHyperparameter h) const { return static_cast<float>(hyper_[h]); }

    const SacArguments& a_;
    int64_t critic_inputs_;
    size_t rows_;
    int64_t actor_size_, critic_size_;
    Simulator simulator_;
    Net actor_, critic_[2], target_[2];
    std::vector<float> gradient_, before_, observation_, next_observation_, action_, reward_, bootstrap_, input_, noise_, squashed_,
        spread_, log_prob_, value_, error_, output_gradient_, action_gradient_, scaled_;
    std::vector<int> rows_of_[2];

    int64_t m_ = 0;
    const double* hyper_ = nullptr;
    const int64_t* keys_ = nullptr;
    int64_t* calls_ = nullptr;
    float *parameters_ = nullptr, *targets_ = nullptr;
    double* totals_ = nullptr;
    Worlds worlds_{};
};

}  // namespace hpbench
