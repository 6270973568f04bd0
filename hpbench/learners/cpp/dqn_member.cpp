#include "dqn_member.hpp"

namespace hpbench::dqn {

void Member::attach(int64_t m) {
    const Arguments& a = a_;
    const int64_t env = m * a.envs, at = m * a.capacity;
    m_ = m;
    hyper_ = a.hyperparameters + m * a.hyperparameter_count;
    keys_ = a.rng_keys + m * a.streams;
    calls_ = a.rng_calls + m * a.streams;
    steps_ = a.environment_steps + m;
    totals_ = a.totals + m * a.total_count;
    parameters_ = a.parameters + m * a.parameters_size;
    targets_ = a.targets + m * a.parameters_size;
    episode_value_ = a.episode_value + env, episode_discounted_ = a.episode_discounted + env, episode_weight_ = a.episode_weight + env;
    replay_ = {a.observations + at * a.observation, a.actions_taken + at, a.rewards + at, a.next_observations + at * a.observation,
               a.terminated + at, a.truncated + at, a.position + m, a.size + m, a.capacity, a.envs, a.observation, 1};
    simulator_.attach(m);
    worlds_ = simulator_.training(m);
    online_.load_parameters(parameters_);
    target_.load_parameters(targets_);
}

void Member::train() {
    for (int64_t r = 0; r < a_.rollouts; ++r) rollout();
    measure();
}

void Member::rollout() {
    Draws words = draws(MINIBATCH), action = draws(ACTION), reset = draws(ENVIRONMENT), noise = draws(NOISE);
    std::copy_n(parameters_, a_.parameters_size, before_.data());
    const int64_t batch = static_cast<int64_t>(hyper_[BATCH_SIZE]);
    int64_t taken = 0;
    for (int64_t t = 0; t < a_.steps; ++t) {
        step(t, action, reset, noise);
        for (int64_t n = due(); n > 0; --n) learn(words, batch * taken++);
    }
    double moved = 0.0;
    for (int64_t i = 0; i < a_.parameters_size; ++i)
        moved += (static_cast<double>(parameters_[i]) - before_[i]) * (static_cast<double>(parameters_[i]) - before_[i]);
    totals_[UPDATE_RATIO] += std::sqrt(moved) / std::sqrt(square_sum(before_.data(), before_.size()));
    totals_[ROLLOUTS] += 1;
}

// -- environments ---------------------------------------------------------------------------------------------------------

void Member::step(int64_t t, Draws& action_draws, Draws& reset_draws, Draws& noise_draws) {
    const int64_t size = a_.observation;
    const bool warm_up = *steps_ < a_.learning_starts;
    const float epsilon = hyperparameter(EPSILON);
    const float* values = online_.forward(worlds_.observation, static_cast<int>(a_.envs));
    for (int64_t e = 0; e < a_.envs; ++e) {
        const int64_t i = t * a_.envs + e, slot = replay_.slot(e);
        const float* value = values + e * a_.actions;
        int64_t choice = best(value);
        if (warm_up || action_draws.uniform(2 * i) < epsilon)
            choice = std::min(static_cast<int64_t>(action_draws.uniform(2 * i + 1) * static_cast<float>(a_.actions)), a_.actions - 1);
        if (worlds_.elapsed[e] == 0) episode_value_[e] = value[choice];
        replay_.actions[slot] = static_cast<float>(choice);
        std::copy_n(worlds_.observation + e * size, size, replay_.observations + slot * size);
        simulator_.send(worlds_, e, replay_.actions + slot);
    }
    simulator_.advance();
    for (int64_t e = 0; e < a_.envs; ++e) {
        const int64_t i = t * a_.envs + e, slot = replay_.slot(e);
        const Outcome o = simulator_.step(worlds_, e, replay_.actions + slot, noise_draws, i * 2 * size);
        std::copy_n(worlds_.observation + e * size, size, replay_.next_observations + slot * size);
        const double reward = o.reward * simulator_.physics(REWARD_SCALE);
        replay_.rewards[slot] = static_cast<float>(reward);
        replay_.terminated[slot] = o.terminated, replay_.truncated[slot] = o.truncated;
        episode_discounted_[e] += episode_weight_[e] * reward;
        episode_weight_[e] *= hyper_[DISCOUNT];
        if (!o.done()) continue;
        cut_.push_back({e, o});
        simulator_.ask(e, o.terminated, reset_draws, i * a_.reset_draws);
    }
    simulator_.renew();
    for (const auto& [e, o] : cut_) {
        const int64_t i = t * a_.envs + e;
        simulator_.restart(worlds_, e, reset_draws, i * a_.reset_draws, noise_draws, i * 2 * size);
    }
    // Only now: the values of this step's actions are the network's until its next call.
    for (const auto& [e, o] : cut_) count(e, o);
    cut_.clear();
    replay_.advance();
    *steps_ += a_.envs;
}

// Statistics of an episode that has just ended.
void Member::count(int64_t e, const Outcome& o) {
    totals_[EPISODE_COUNT] += 1;
    totals_[RETURN_SUM] += o.episode_return;
    totals_[RETURN_SQUARE_SUM] += o.episode_return * o.episode_return;
    totals_[LENGTH_SUM] += static_cast<double>(o.episode_length);
    totals_[SUCCESSES] += a_.has_success && o.episode_return >= a_.success_return;
    double followed = episode_discounted_[e];
    if (o.truncated) {
        const float* values = online_.forward(replay_.next_observations + replay_.slot(e) * a_.observation, 1);
        followed += episode_weight_[e] * values[best(values)];
    }
    totals_[Q_BIAS] += episode_value_[e] - followed;
    episode_discounted_[e] = 0.0, episode_weight_[e] = 1.0;
}

// -- learning -------------------------------------------------------------------------------------------------------------

// Gradient steps that are due after this step of all environments.
int64_t Member::due() {
    const int64_t frequency = static_cast<int64_t>(hyper_[TRAIN_FREQUENCY]);
    int64_t& credit = a_.train_credit[m_];
    credit += a_.envs;
    const int64_t count = std::min(credit / frequency, (a_.envs + frequency - 1) / frequency);
    credit = std::min(credit - count * frequency, frequency - 1);
    return *steps_ > a_.learning_starts ? count : 0;
}

void Member::learn(Draws& words, int64_t first_word) {
    const int64_t size = a_.observation, actions = a_.actions, count = static_cast<int64_t>(hyper_[BATCH_SIZE]);
    const int64_t n_step = static_cast<int64_t>(hyper_[N_STEP]);
    const float discount = hyperparameter(DISCOUNT), share = 1.0f / static_cast<float>(count);
    for (int64_t i = 0; i < count; ++i) {
        const int64_t row = row_[i] = replay_.draw(words.word(first_word + i));
        const Replay::Target t = replay_.n_step(row, n_step, discount);
        reward_[i] = t.reward, bootstrap_[i] = t.bootstrap;
        std::copy_n(replay_.observations + row * size, size, &input_[i * size]);
        std::copy_n(replay_.next_observations + t.last * size, size, &next_[i * size]);
    }
    const int rows = static_cast<int>(count);
    const float* following = target_.forward(next_.data(), rows);
    const float* chooser = a_.double_q ? online_.forward(next_.data(), rows) : following;
    for (int64_t i = 0; i < count; ++i) reward_[i] += bootstrap_[i] * following[i * actions + best(chooser + i * actions)];

    const float* values = online_.forward(input_.data(), rows);
    double loss = 0.0, error_sum = 0.0, value_sum = 0.0;
    std::fill_n(d_.data(), count * actions, 0.0f);
    for (int64_t i = 0; i < count; ++i) {
        const int64_t choice = static_cast<int64_t>(replay_.actions[row_[i]]);
        const float value = values[i * actions + choice], difference = value - reward_[i], size_of = std::fabs(difference);
        loss += size_of < 1.0f ? 0.5f * difference * difference : size_of - 0.5f;
        d_[i * actions + choice] = share * (difference > 1.0f ? 1.0f : difference < -1.0f ? -1.0f : difference);
        error_[i] = size_of;
        error_sum += size_of, value_sum += value;
    }
    online_.backward(input_.data(), d_.data(), rows, gradient_.data());

    const float norm = static_cast<float>(std::sqrt(square_sum(gradient_.data(), gradient_.size())));
    const float scale = hyperparameter(MAX_NORM) / (norm + 1e-6f), tau = hyperparameter(TAU);
    const int64_t at = m_ * a_.parameters_size;
    quick_adam(parameters_, a_.adam_mean + at, a_.adam_square + at, gradient_.data(), a_.parameters_size, hyper_[LEARNING_RATE],
               ++a_.adam_steps[m_], scale > 1.0f ? 1.0f : scale, 1e-8f);
    for (int64_t i = 0; i < a_.parameters_size; ++i) targets_[i] += tau * (parameters_[i] - targets_[i]);
    online_.load_parameters(parameters_);
    target_.load_parameters(targets_);

    const int64_t high = static_cast<int64_t>(std::ceil(0.95 * static_cast<double>(count))) - 1;
    std::nth_element(error_.begin(), error_.begin() + high, error_.begin() + count);
    totals_[TD_LOSS] += loss / static_cast<double>(count);
    totals_[TD_ERROR] += error_sum / static_cast<double>(count);
    totals_[TD_ERROR_HIGH] += error_[high];
    totals_[Q_MEAN] += value_sum / static_cast<double>(count);
    totals_[GRADIENT_NORM] += norm;
    totals_[GRADIENT_CLIPPED] += scale < 1.0f;
    totals_[OPTIMISER_STEPS] += 1;
}

// -- the end of a segment, and evaluation ---------------------------------------------------------------------------------

void Member::measure() {
    const int64_t recent = std::min(a_.envs * a_.steps, a_.capacity), stride = std::max<int64_t>(1, recent / PLASTICITY_SAMPLE);
    int count = 0;
    for (int64_t age = 0; age < recent; age += stride)
        std::copy_n(replay_.observations + replay_.row(age) * a_.observation, a_.observation, &input_[a_.observation * count++]);
    online_.forward(input_.data(), count);
    const auto [dormant, rank] = plasticity(online_.first_hidden(), a_.first, online_.second_hidden(), a_.second, count);
    totals_[DORMANT_SHARE] = dormant;
    totals_[FEATURE_RANK] = rank;
    totals_[BUFFER_FILL] = static_cast<double>(*replay_.size) / static_cast<double>(a_.capacity);
}

void Member::evaluate(double* returns, int64_t* lengths) {
    ++calls_[EVALUATION];  // the greedy policy draws nothing, but an evaluation is three calls for every learner
    Draws reset = draws(EVALUATION), noise = draws(EVALUATION);
    auto act = [&](const float* observations, const int64_t*, int rows, float* actions) {
        const float* values = online_.forward(observations, rows);
        for (int i = 0; i < rows; ++i) actions[i] = static_cast<float>(best(values + i * a_.actions));
    };
    simulator_.play(a_.episodes, reset, noise, returns, lengths, act);
}

}  // namespace hpbench::dqn
