#include "sac_member.hpp"

#include <algorithm>
#include <cmath>

#include "optimiser.hpp"

namespace hpbench::sac {
namespace {

constexpr int64_t CREDIT = 1000000;
constexpr float LOW = -20.0f, HIGH = 2.0f;  // of a log standard deviation
constexpr float LOG_2 = 0.693147181f, LOG_ROOT_TAU = 0.918938533f;

// The longest batch of any member, or the rows that acting needs.
size_t rows_needed(const Arguments& a) {
    double batch = 1.0;
    for (int64_t m = 0; m < a.members; ++m) batch = std::max(batch, a.hyperparameters[m * a.hyperparameter_count + BATCH_SIZE]);
    return static_cast<size_t>(std::max({static_cast<int64_t>(batch), a.envs, a.episodes}));
}

size_t padded(size_t count) { return (count + 7) / 8 * 8; }

void tanh_all(float* x, size_t count) {
    for (size_t i = 0; i < count; i += 8) store(x + i, tanh8(load(x + i)));
}

}  // namespace

Member::Member(const Arguments& a)
    : a_(a), width_(a.width), inputs_(a.observation + (a.discrete ? 0 : a.actions)),
      outputs_(a.discrete ? a.actions : 2 * a.actions), values_(a.discrete ? a.actions : 1), rows_(rows_needed(a)),
      actor_shape_{int(a.observation), int(a.first), int(a.second), int(outputs_)},
      critic_shape_{int(inputs_), int(a.first), int(a.second), int(values_)}, actor_size_(actor_shape_.size()),
      critic_size_(critic_shape_.size()), simulator_(a), actor_(actor_shape_, rows_),
      critics_{{critic_shape_, rows_}, {critic_shape_, rows_}}, targets_{{critic_shape_, rows_}, {critic_shape_, rows_}},
      gradient_(a.parameters_size), before_(a.parameters_size), observation_(rows_ * a.observation),
      next_observation_(rows_ * a.observation), action_(rows_ * a.width), reward_(rows_), bootstrap_(rows_),
      noise_{std::vector<float>(rows_ * a.width), std::vector<float>(rows_ * a.width)}, squashed_(padded(rows_ * a.width)),
      entropy_(rows_), spread_(rows_ * a.width), log_prob_(rows_ * outputs_), prob_(rows_ * outputs_), input_(rows_ * inputs_),
      value_(rows_ * values_), target_(rows_), error_(rows_), output_gradient_(rows_ * std::max(outputs_, values_)),
      slope_(rows_ * a.width), compact_(rows_ * a.width) {}

void Member::attach(int64_t m) {
    m_ = m;
    hyper_ = a_.hyperparameters + m * a_.hyperparameter_count;
    keys_ = a_.rng_keys + m * a_.streams;
    calls_ = a_.rng_calls + m * a_.streams;
    parameters_ = a_.parameters + m * a_.parameters_size;
    totals_ = a_.totals + m * a_.total_count;
    simulator_.attach(m);
    worlds_ = simulator_.training(m);
    batch_ = static_cast<int>(hyper_[BATCH_SIZE]);
    actor_.load_parameters(parameters_);
    for (int c = 0; c < CRITICS; ++c) {
        critics_[c].load_parameters(parameters_ + actor_size_ + c * critic_size_);
        targets_[c].load_parameters(a_.targets + (m * CRITICS + c) * critic_size_);
    }
}

void Member::train() {
    for (int64_t r = 0; r < a_.rollouts; ++r) {
        std::copy_n(parameters_, a_.parameters_size, before_.data());
        rollout();
        double moved = 0.0;
        for (int64_t i = 0; i < a_.parameters_size; ++i)
            moved += (static_cast<double>(parameters_[i]) - before_[i]) * (static_cast<double>(parameters_[i]) - before_[i]);
        totals_[UPDATE_RATIO] += std::sqrt(moved) / std::sqrt(square_sum(before_.data(), before_.size()));
        totals_[ROLLOUTS] += 1;
    }
}

// -- rollout --------------------------------------------------------------------------------------------------------------

void Member::rollout() {
    const int64_t envs = a_.envs, size = a_.observation, per_action = a_.discrete ? 1 : 2 * width_;
    const int64_t rate = std::llround(hyper_[UPDATES_PER_STEP] * CREDIT);
    int64_t &position = a_.replay_position[m_], &filled = a_.replay_size[m_], &credit = a_.update_credit[m_];
    int64_t& taken = a_.environment_steps[m_];
    Draws action_draws = draws(ACTION), reset_draws = draws(ENVIRONMENT), noise_draws = draws(NOISE);
    std::vector<float> scaled(envs * width_), outputs(envs * outputs_);  // the network's own are gone after the next forward pass
    std::vector<char> ended(envs);
    for (int64_t t = 0; t < a_.steps; ++t) {
        std::copy_n(actor_.forward(worlds_.observation, static_cast<int>(envs)), envs * outputs_, outputs.data());
        for (int64_t e = 0; e < envs; ++e) {
            const int64_t i = t * envs + e, row = m_ * a_.buffer_size + position + e;
            float *action = a_.replay_action + row * width_, *seen = worlds_.observation + e * size;
            act(&outputs[e * outputs_], action_draws, i * per_action, taken < a_.learning_starts, action);
            if (worlds_.elapsed[e] == 0) a_.episode_value[m_ * envs + e] = value(seen, action);
            scale(action, &scaled[e * width_]);
            std::copy_n(seen, size, a_.replay_observation + row * size);
            simulator_.send(worlds_, e, &scaled[e * width_]);
        }
        simulator_.advance();
        for (int64_t e = 0; e < envs; ++e) {
            const int64_t i = t * envs + e, row = m_ * a_.buffer_size + position + e;
            const float* seen = worlds_.observation + e * size;
            const Outcome o = simulator_.step(worlds_, e, &scaled[e * width_], noise_draws, i * 2 * size);
            std::copy_n(seen, size, a_.replay_next_observation + row * size);
            a_.replay_reward[row] = static_cast<float>(o.reward * simulator_.physics(REWARD_SCALE));
            a_.replay_terminated[row] = o.terminated;
            a_.replay_truncated[row] = o.truncated;
            count(o, e, seen);
            ended[e] = o.done();
            if (o.done()) simulator_.ask(e, o.terminated, reset_draws, i * a_.reset_draws);
        }
        simulator_.renew();
        for (int64_t e = 0; e < envs; ++e) {
            const int64_t i = t * envs + e;
            if (ended[e]) simulator_.restart(worlds_, e, reset_draws, i * a_.reset_draws, noise_draws, i * 2 * size);
        }
        position = (position + envs) % a_.buffer_size;
        filled = std::min(filled + envs, a_.buffer_size);
        taken += envs;
        if (taken <= a_.learning_starts) continue;
        for (credit += rate * envs; credit >= CREDIT; credit -= CREDIT) learn();
    }
}

// Statistics of an episode; see sac.py on the bias of the critics.
void Member::count(const Outcome& o, int64_t e, const float* seen) {
    const int64_t at = m_ * a_.envs + e;
    double &discounted = a_.episode_discounted[at], &weight = a_.episode_weight[at];
    discounted += weight * (o.reward * simulator_.physics(REWARD_SCALE));
    weight *= hyper_[DISCOUNT];
    if (!o.done()) return;
    if (o.truncated) {
        std::vector<float> action(width_);
        likely(actor_.forward(seen, 1), action.data());
        discounted += weight * value(seen, action.data());
    }
    totals_[EPISODES] += 1;
    totals_[RETURN_SUM] += o.episode_return;
    totals_[RETURN_SQUARE_SUM] += o.episode_return * o.episode_return;
    totals_[LENGTH_SUM] += static_cast<double>(o.episode_length);
    totals_[SUCCESSES] += a_.has_success && o.episode_return >= a_.success_return;
    totals_[Q_BIAS] += a_.episode_value[at] - discounted;
    discounted = 0.0, weight = 1.0;
}

// Smaller value of the two critics.
double Member::value(const float* seen, const float* action) {
    std::copy_n(seen, a_.observation, input_.data());
    if (!a_.discrete) std::copy_n(action, width_, &input_[a_.observation]);
    const int64_t at = a_.discrete ? static_cast<int64_t>(action[0]) : 0;
    const float first = critics_[0].forward(input_.data(), 1)[at], second = critics_[1].forward(input_.data(), 1)[at];
    return second < first ? second : first;
}

// The most likely action, in the policy's unit.
void Member::likely(const float* output, float* action) const {
    if (a_.discrete)
        action[0] = static_cast<float>(std::max_element(output, output + outputs_) - output);
    else
        for (int64_t j = 0; j < width_; ++j) action[j] = std::tanh(output[j]);
}

// An action in the policy's unit, from the draws that start at `index`.
void Member::act(const float* output, Draws& draws, uint64_t index, bool warm_up, float* action) const {
    if (!a_.discrete) {
        for (int64_t j = 0; j < width_; ++j) {
            const float spread = std::min(std::max(output[width_ + j], LOW), HIGH);
            action[j] = warm_up ? 2.0f * draws.uniform(index + 2 * j) - 1.0f
                                : std::tanh(output[j] + std::exp(spread) * draws.normal(index + 2 * j));
        }
        return;
    }
    const float u = draws.uniform(index), top = *std::max_element(output, output + outputs_);
    float total = 0.0f, cumulative = 0.0f;
    for (int64_t k = 0; k < outputs_; ++k) total += std::exp(output[k] - top);
    int64_t choice = 0;
    for (int64_t k = 0; k + 1 < outputs_; ++k) {
        cumulative += std::exp(output[k] - top) / total;
        choice += u >= cumulative;
    }
    action[0] = warm_up ? std::floor(u * static_cast<float>(outputs_)) : static_cast<float>(choice);
}

void Member::scale(const float* action, float* scaled) const {
    const float low = static_cast<float>(a_.action_low), half = static_cast<float>(0.5 * (a_.action_high - a_.action_low));
    for (int64_t j = 0; j < width_; ++j) scaled[j] = a_.discrete ? action[j] : low + half * (action[j] + 1.0f);
}

// -- one gradient step ----------------------------------------------------------------------------------------------------

void Member::learn() {
    ++a_.adam_steps[m_];
    const float temperature = std::exp(parameters_[a_.parameters_size - 1]);
    gather();
    estimate_targets(temperature);
    improve_critics();
    if (a_.discrete)
        improve_actor_categorical(temperature);
    else
        improve_actor_gaussian(temperature);
    if (!a_.fixed_temperature) improve_temperature();
    follow();
    totals_[TEMPERATURE] += temperature;
    totals_[GRADIENT_NORM] += std::sqrt(square_sum(gradient_.data(), actor_size_ + CRITICS * critic_size_));
    totals_[OPTIMISER_STEPS] += 1;
}

// Transitions drawn uniformly from the memory, and the noise of both action samples.
void Member::gather() {
    const int64_t size = a_.observation;
    const uint64_t filled = static_cast<uint64_t>(a_.replay_size[m_]);
    const float discount = hyperparameter(DISCOUNT);
    Draws words = draws(MINIBATCH), noise = draws(MINIBATCH);
    for (int i = 0; i < batch_; ++i) {
        const int64_t row = m_ * a_.buffer_size + static_cast<int64_t>((words.word(i) * filled) >> 32);
        std::copy_n(a_.replay_observation + row * size, size, &observation_[i * size]);
        std::copy_n(a_.replay_next_observation + row * size, size, &next_observation_[i * size]);
        std::copy_n(a_.replay_action + row * width_, width_, &action_[i * width_]);
        reward_[i] = a_.replay_reward[row];
        bootstrap_[i] = a_.replay_terminated[row] ? 0.0f : discount;
        if (a_.discrete) continue;
        for (int which = 0; which < 2; ++which)
            for (int64_t j = 0; j < width_; ++j)
                noise_[which][i * width_ + j] = noise.normal(((2 * i + which) * width_ + j) * 2);
    }
}

// Squashed actions of the Gaussian policy, and minus their log-probabilities in `entropy_`.
void Member::sample_actions(const float* output, int which) {
    for (int i = 0; i < batch_; ++i) {
        float log_prob = 0.0f;
        for (int64_t j = 0; j < width_; ++j) {
            const float raw = output[i * outputs_ + width_ + j], spread = std::min(std::max(raw, LOW), HIGH);
            const float z = noise_[which][i * width_ + j], deviation = std::exp(spread);
            const float before = output[i * outputs_ + j] + deviation * z, twice = -2.0f * before;
            const float softplus = twice > 20.0f ? twice : std::log1p(std::exp(twice));
            log_prob += -0.5f * z * z - spread - LOG_ROOT_TAU - 2.0f * (LOG_2 - before - softplus);
            squashed_[i * width_ + j] = before;
            spread_[i * width_ + j] = raw < LOW || raw > HIGH ? 0.0f : deviation;
        }
        entropy_[i] = -log_prob;
    }
    tanh_all(squashed_.data(), static_cast<size_t>(batch_) * width_);
}

// What the critics see: observations, and where actions are vectors, these.
void Member::join(const float* observation, const float* action) {
    const int64_t size = a_.observation;
    for (int i = 0; i < batch_; ++i) {
        std::copy_n(observation + i * size, size, &input_[i * inputs_]);
        if (!a_.discrete) std::copy_n(action + i * width_, width_, &input_[i * inputs_ + size]);
    }
}

// The smaller of the two critics' outputs for `input_`; with one output, also which rows are whose.
void Member::minimum(Network<Relu>* networks) {
    const float *first = networks[0].forward(input_.data(), batch_), *second = networks[1].forward(input_.data(), batch_);
    for (auto& rows : rows_of_) rows.clear();
    for (int64_t i = 0; i < batch_ * values_; ++i) {
        const bool other = second[i] < first[i];
        value_[i] = other ? second[i] : first[i];
        if (!a_.discrete) rows_of_[other].push_back(static_cast<int>(i));
    }
}

// Probabilities of the choices, their logarithms, and the entropy of every row.
void Member::probabilities(const float* output) {
    for (int i = 0; i < batch_; ++i) {
        const float *row = output + i * outputs_, top = *std::max_element(row, row + outputs_);
        float *p = &prob_[i * outputs_], *log_p = &log_prob_[i * outputs_], total = 0.0f, entropy = 0.0f;
        for (int64_t k = 0; k < outputs_; ++k) total += std::exp(row[k] - top);
        const float log_total = std::log(total);
        for (int64_t k = 0; k < outputs_; ++k) {
            log_p[k] = row[k] - top - log_total;
            p[k] = std::exp(log_p[k]);
            entropy -= p[k] * log_p[k];
        }
        entropy_[i] = entropy;
    }
}

void Member::estimate_targets(float temperature) {
    const float* output = actor_.forward(next_observation_.data(), batch_);
    if (a_.discrete)
        probabilities(output);
    else
        sample_actions(output, 0);
    join(next_observation_.data(), squashed_.data());
    minimum(targets_);
    for (int i = 0; i < batch_; ++i) {
        float value = a_.discrete ? 0.0f : value_[i];
        if (a_.discrete)
            for (int64_t k = 0; k < values_; ++k) value += prob_[i * values_ + k] * value_[i * values_ + k];
        target_[i] = reward_[i] + bootstrap_[i] * (value + temperature * entropy_[i]);
    }
}

void Member::improve_critics() {
    const float share = 1.0f / static_cast<float>(batch_);
    double loss = 0.0, q_sum = 0.0, size = 0.0;
    join(observation_.data(), action_.data());
    std::fill_n(error_.begin(), batch_, 0.0f);
    for (int c = 0; c < CRITICS; ++c) {
        const float* output = critics_[c].forward(input_.data(), batch_);
        std::fill_n(output_gradient_.begin(), batch_ * values_, 0.0f);
        for (int i = 0; i < batch_; ++i) {
            const int64_t at = i * values_ + (a_.discrete ? static_cast<int64_t>(action_[i]) : 0);
            const float error = output[at] - target_[i];
            loss += 0.5 * static_cast<double>(error) * error / batch_;
            q_sum += output[at];
            error_[i] += std::fabs(error) / CRITICS;
            output_gradient_[at] = error * share;
        }
        critics_[c].backward(input_.data(), output_gradient_.data(), batch_, gradient_.data() + actor_size_ + c * critic_size_);
    }
    adam_on(actor_size_, CRITICS * critic_size_, CRITIC_RATE);
    for (int c = 0; c < CRITICS; ++c) critics_[c].load_parameters(parameters_ + actor_size_ + c * critic_size_);
    bool finite = true;
    for (int i = 0; i < batch_; ++i) {
        size += error_[i];
        finite = finite && std::isfinite(error_[i]);
    }
    totals_[CRITIC_LOSS] += loss;
    totals_[Q_MEAN] += q_sum / (CRITICS * batch_);
    totals_[TD_MEAN] += size / batch_;
    if (finite) std::nth_element(error_.begin(), error_.begin() + (95 * batch_ + 99) / 100 - 1, error_.begin() + batch_);
    totals_[TD_P95] += finite ? error_[(95 * batch_ + 99) / 100 - 1] : NAN;
}

void Member::improve_actor_gaussian(float temperature) {
    const float share = 1.0f / static_cast<float>(batch_);
    double loss = 0.0, entropy = 0.0;
    sample_actions(actor_.forward(observation_.data(), batch_), 1);
    join(observation_.data(), squashed_.data());
    minimum(critics_);
    for (int c = 0; c < CRITICS; ++c) {
        const int count = static_cast<int>(rows_of_[c].size());
        std::fill_n(error_.begin(), count, 1.0f);
        critics_[c].input_gradient(rows_of_[c].data(), count, error_.data(), static_cast<int>(a_.observation), compact_.data());
        for (int i = 0; i < count; ++i) std::copy_n(&compact_[i * width_], width_, &slope_[rows_of_[c][i] * width_]);
    }
    for (int i = 0; i < batch_; ++i) {
        loss -= value_[i] + temperature * entropy_[i];
        entropy += entropy_[i];
        for (int64_t j = 0; j < width_; ++j) {
            const float action = squashed_[i * width_ + j], spread = spread_[i * width_ + j];
            // d loss / d (mean + deviation * noise); log(1 - tanh^2) adds 2 tanh to the slope of the log-probability.
            const float d = 2.0f * temperature * action - slope_[i * width_ + j] * (1.0f - action * action);
            output_gradient_[i * outputs_ + j] = d * share;
            output_gradient_[i * outputs_ + width_ + j] =
                spread == 0.0f ? 0.0f : (d * spread * noise_[1][i * width_ + j] - temperature) * share;
        }
    }
    actor_.backward(observation_.data(), output_gradient_.data(), batch_, gradient_.data());
    adam_on(0, actor_size_, ACTOR_RATE);
    actor_.load_parameters(parameters_);
    totals_[ACTOR_LOSS] += loss / batch_;
    gradient_.back() = static_cast<float>(entropy / batch_);
    totals_[ENTROPY] += entropy / batch_ / static_cast<double>(width_);
}

void Member::improve_actor_categorical(float temperature) {
    const float share = 1.0f / static_cast<float>(batch_);
    double loss = 0.0, entropy = 0.0;
    probabilities(actor_.forward(observation_.data(), batch_));
    join(observation_.data(), nullptr);
    minimum(critics_);
    for (int i = 0; i < batch_; ++i) {
        const float *p = &prob_[i * outputs_], *log_p = &log_prob_[i * outputs_], *q = &value_[i * outputs_];
        float mean = 0.0f;
        for (int64_t k = 0; k < outputs_; ++k) mean += p[k] * (temperature * log_p[k] - q[k]);
        for (int64_t k = 0; k < outputs_; ++k)
            output_gradient_[i * outputs_ + k] = share * p[k] * (temperature * log_p[k] - q[k] - mean);
        loss += mean;
        entropy += entropy_[i];
    }
    actor_.backward(observation_.data(), output_gradient_.data(), batch_, gradient_.data());
    adam_on(0, actor_size_, ACTOR_RATE);
    actor_.load_parameters(parameters_);
    totals_[ACTOR_LOSS] += loss / batch_;
    gradient_.back() = static_cast<float>(entropy / batch_);
    totals_[ENTROPY] += entropy / batch_ / std::log(static_cast<double>(outputs_));
}

// The last gradient is that of log(temperature): the entropy, which the actor's step has left there, minus its target.
void Member::improve_temperature() {
    const float share = hyperparameter(TARGET_ENTROPY);
    gradient_.back() -= a_.discrete ? std::log(static_cast<float>(outputs_)) * share
                                    : static_cast<float>(width_) * ((2.0f * share - 1.0f) * (1.0f + LOG_2) - 1.0f);
    adam_on(a_.parameters_size - 1, 1, TEMPERATURE_RATE);
}

// Polyak averaging of the target critics.
void Member::follow() {
    const float tau = hyperparameter(TAU), *source = parameters_ + actor_size_;
    float* target = a_.targets + m_ * CRITICS * critic_size_;
    for (int64_t i = 0; i < CRITICS * critic_size_; ++i) target[i] += tau * (source[i] - target[i]);
    for (int c = 0; c < CRITICS; ++c) targets_[c].load_parameters(target + c * critic_size_);
}

void Member::adam_on(int64_t start, int64_t size, Hyperparameter rate) {
    const int64_t at = m_ * a_.parameters_size + start;
    adam(parameters_ + start, a_.adam_mean + at, a_.adam_square + at, gradient_.data() + start, size, hyper_[rate], a_.adam_steps[m_],
         1.0f, 1e-8f);
}

// -- evaluation -----------------------------------------------------------------------------------------------------------

void Member::evaluate(double* returns, int64_t* lengths) {
    draws(EVALUATION);  // the most likely actions take none
    const Draws reset = draws(EVALUATION), noise = draws(EVALUATION);
    simulator_.play(a_.episodes, reset, noise, returns, lengths, [this](const float* seen, const int64_t*, int rows, float* actions) {
        const float* output = actor_.forward(seen, rows);
        for (int i = 0; i < rows; ++i) {
            float* action = actions + i * width_;
            likely(output + i * outputs_, action);
            scale(action, action);
        }
    });
}

}  // namespace hpbench::sac
