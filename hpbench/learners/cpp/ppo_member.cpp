#include "ppo_member.hpp"

namespace hpbench::ppo {

void Member::attach(int64_t m) {
    const Arguments& a = a_;
    const int64_t env = m * a.envs, at = m * batch_;
    m_ = m;
    hyper_ = a.hyperparameters + m * a.hyperparameter_count;
    simulator_.attach(m);
    keys_ = a.rng_keys + m * a.streams;
    calls_ = a.rng_calls + m * a.streams;
    parameters_ = a.parameters + m * a.parameters_size;
    totals_ = a.totals + m * a.total_count;
    observations_ = a.observations + at * a.observation, actions_ = a.actions_taken + at * a.width;
    log_probs_ = a.log_probs + at, values_ = a.values + at, rewards_ = a.rewards + at, done_ = a.done + at;
    truncated_ = a.truncated + at, final_values_ = a.final_values + at, advantages_ = a.advantages + at, returns_ = a.returns + at;
    last_values_ = a.last_values + env;
    worlds_ = simulator_.training(m);
    actor_.load_parameters(parameters_);
    critic_.load_parameters(parameters_ + actor_size_);
}

void Member::train() {
    for (int64_t r = 0; r < a_.rollouts; ++r) {
        collect();
        estimate();
        update();
    }
    measure();
}

// -- normalisation ----------------------------------------------------------------------------------------------------------

void Member::normalise(const float* raw, float* out, int64_t rows) const {
    const int64_t size = a_.observation;
    if (!a_.normalize_observation) {
        std::copy_n(raw, rows * size, out);
        return;
    }
    const double *mean = a_.observation_mean + m_ * size, *variance = a_.observation_variance + m_ * size;
    for (int64_t i = 0; i < rows * size; ++i) {
        double z = (raw[i] - mean[i % size]) / std::sqrt(variance[i % size] + 1e-8);
        out[i] = static_cast<float>(z > NORMALISED_LIMIT ? NORMALISED_LIMIT : z < -NORMALISED_LIMIT ? -NORMALISED_LIMIT : z);
    }
}

void Member::merge_moments(double* mean, double* variance, double* count, const double* batch_mean, const double* batch_variance,
                           int64_t size, double batch) {
    const double total = *count + batch;
    for (int64_t j = 0; j < size; ++j) {
        double delta = batch_mean[j] - mean[j];
        double second = variance[j] * *count + batch_variance[j] * batch + delta * delta * *count * batch / total;
        mean[j] += delta * batch / total;
        variance[j] = second / total;
    }
    *count = total;
}

// -- policy ---------------------------------------------------------------------------------------------------------------

// Fills `action` and returns its log-probability.
float Member::sample(const float* output, Draws& draws, uint64_t index, float* action) const {
    if (a_.discrete) {
        const float top = *std::max_element(output, output + a_.actions);
        float total = 0.0f, cumulative = 0.0f;
        for (int64_t k = 0; k < a_.actions; ++k) total += std::exp(output[k] - top);
        const float u = draws.uniform(index);
        int64_t choice = 0;
        for (int64_t k = 0; k + 1 < a_.actions; ++k) {
            cumulative += std::exp(output[k] - top) / total;
            choice += u >= cumulative;
        }
        action[0] = static_cast<float>(choice);
        return output[choice] - top - std::log(total);
    }
    float log_prob = 0.0f;
    for (int64_t j = 0; j < a_.width; ++j) {
        const float spread = log_std()[j];
        action[j] = output[j] + std::exp(spread) * draws.normal(index + 2 * j);
        const float z = (action[j] - output[j]) * std::exp(-spread);
        log_prob += -0.5f * z * z - spread - 0.918938533f;
    }
    return log_prob;
}

// -- rollout --------------------------------------------------------------------------------------------------------------

void Member::collect() {
    const int64_t envs = a_.envs, size = a_.observation, width = a_.width;
    Draws action_draws = draws(ACTION), reset_draws = draws(ENVIRONMENT), noise_draws = draws(NOISE);
    std::vector<int64_t> cut;  // steps whose episode was cut by the time limit
    for (int64_t t = 0; t < a_.steps; ++t) {
        float* seen = observations_ + t * envs * size;
        if (a_.normalize_observation) std::copy_n(worlds_.observation, envs * size, &raw_[t * envs * size]);
        normalise(worlds_.observation, seen, envs);
        const float* output = actor_.forward(seen, static_cast<int>(envs));
        for (int64_t e = 0; e < envs; ++e) {
            const int64_t i = t * envs + e;
            float* action = actions_ + i * width;
            log_probs_[i] = sample(output + e * a_.actions, action_draws, i * draws_per_action(), action);
            simulator_.send(worlds_, e, action);
        }
        simulator_.advance();
        for (int64_t e = 0; e < envs; ++e) {
            const int64_t i = t * envs + e;
            const Outcome o = simulator_.step(worlds_, e, actions_ + i * width, noise_draws, i * 2 * size);
            rewards_[i] = static_cast<float>(o.reward * simulator_.physics(REWARD_SCALE));
            done_[i] = o.done();
            truncated_[i] = o.truncated;
            final_values_[i] = 0.0f;
            if (!o.done()) continue;
            totals_[EPISODE_COUNT] += 1;
            totals_[RETURN_SUM] += o.episode_return;
            totals_[RETURN_SQUARE_SUM] += o.episode_return * o.episode_return;
            totals_[LENGTH_SUM] += static_cast<double>(o.episode_length);
            totals_[SUCCESSES] += a_.has_success && o.episode_return >= a_.success_return;
            if (o.truncated) {
                normalise(worlds_.observation + e * size, &finals_[cut.size() * size], 1);
                cut.push_back(i);
            }
            simulator_.ask(e, o.terminated, reset_draws, i * a_.reset_draws);
        }
        simulator_.renew();
        for (int64_t i = t * envs; i < (t + 1) * envs; ++i)
            if (done_[i] != 0.0f)
                simulator_.restart(worlds_, i - t * envs, reset_draws, i * a_.reset_draws, noise_draws, i * 2 * size);
    }
    // The critic is not needed while acting: one pass over the whole rollout is faster, and every row comes out the same.
    std::copy_n(critic_.forward(observations_, static_cast<int>(batch_)), batch_, values_);
    normalise(worlds_.observation, input_.data(), envs);
    std::copy_n(critic_.forward(input_.data(), static_cast<int>(envs)), envs, last_values_);
    const float* final_values = critic_.forward(finals_.data(), static_cast<int>(cut.size()));
    for (size_t i = 0; i < cut.size(); ++i) final_values_[cut[i]] = final_values[i];
    if (a_.normalize_observation) {
        std::vector<double> mean(size), variance(size);
        for (int64_t i = 0; i < batch_ * size; ++i) mean[i % size] += raw_[i];
        for (double& x : mean) x /= static_cast<double>(batch_);
        for (int64_t i = 0; i < batch_ * size; ++i) variance[i % size] += (raw_[i] - mean[i % size]) * (raw_[i] - mean[i % size]);
        for (double& x : variance) x /= static_cast<double>(batch_);
        merge_moments(a_.observation_mean + m_ * size, a_.observation_variance + m_ * size, a_.observation_count + m_, mean.data(),
                      variance.data(), size, static_cast<double>(batch_));
    }
}

// -- advantages -----------------------------------------------------------------------------------------------------------

static std::pair<double, double> moments(const float* x, int64_t count) {
    double mean = 0.0, variance = 0.0;
    for (int64_t i = 0; i < count; ++i) mean += x[i];
    mean /= static_cast<double>(count);
    for (int64_t i = 0; i < count; ++i) variance += (x[i] - mean) * (x[i] - mean);
    return {mean, variance / static_cast<double>(count)};
}

void Member::scale_rewards() {
    const double discount = hyper_[DISCOUNT];
    std::vector<double> history(batch_);
    double* running = a_.return_running + m_ * a_.envs;
    for (int64_t i = 0; i < batch_; ++i) {
        double& r = running[i % a_.envs];
        history[i] = r = r * discount + rewards_[i];
        if (done_[i] != 0.0f) r = 0.0;
    }
    double mean = std::accumulate(history.begin(), history.end(), 0.0) / static_cast<double>(batch_), variance = 0.0;
    for (double x : history) variance += (x - mean) * (x - mean);
    variance /= static_cast<double>(batch_);
    merge_moments(a_.return_mean + m_, a_.return_variance + m_, a_.return_count + m_, &mean, &variance, 1,
                  static_cast<double>(batch_));
    const double deviation = std::sqrt(a_.return_variance[m_] + 1e-8);
    for (int64_t i = 0; i < batch_; ++i) {
        double r = rewards_[i] / deviation;
        advantages_[i] = static_cast<float>(r > NORMALISED_LIMIT ? NORMALISED_LIMIT : r < -NORMALISED_LIMIT ? -NORMALISED_LIMIT : r);
    }
}

void Member::estimate() {
    const float discount = hyperparameter(DISCOUNT), decay = discount * hyperparameter(LAMBDA);
    // `advantages_` first holds the rewards, so that the buffer keeps them unscaled.
    if (a_.normalize_reward)
        scale_rewards();
    else
        std::copy_n(rewards_, batch_, advantages_);
    for (int64_t e = 0; e < a_.envs; ++e) {
        float following = last_values_[e], running = 0.0f;
        for (int64_t t = a_.steps - 1; t >= 0; --t) {
            const int64_t i = t * a_.envs + e;
            const float reward = advantages_[i] + discount * truncated_[i] * final_values_[i], goes_on = 1.0f - done_[i];
            running = reward + discount * goes_on * following - values_[i] + decay * goes_on * running;
            advantages_[i] = running;
            returns_[i] = running + values_[i];
            following = values_[i];
        }
    }
    const double variance = moments(returns_, batch_).second, residual = moments(advantages_, batch_).second;
    totals_[EXPLAINED_VARIANCE] += variance > 0.0 ? 1.0 - residual / variance : 0.0;
    totals_[ROLLOUTS] += 1;
}

// -- update ---------------------------------------------------------------------------------------------------------------

void Member::update() {
    std::copy_n(parameters_, a_.parameters_size, before_.data());
    const int64_t epochs = static_cast<int64_t>(hyper_[EPOCHS]);
    const int64_t parts = std::min(static_cast<int64_t>(hyper_[MINIBATCHES]), batch_);
    for (int64_t epoch = 0; epoch < epochs; ++epoch) {
        Draws words = draws(MINIBATCH);
        for (int64_t i = 0; i < batch_; ++i) order_[i] = {words.word(i), static_cast<uint32_t>(i)};
        std::sort(order_.begin(), order_.end());
        for (int64_t i = 0; i < parts; ++i) {
            const int64_t start = i * batch_ / parts, end = (i + 1) * batch_ / parts;
            minibatch(order_.data() + start, static_cast<int>(end - start));
        }
    }
    double moved = 0.0;
    for (int64_t i = 0; i < a_.parameters_size; ++i)
        moved += (static_cast<double>(parameters_[i]) - before_[i]) * (static_cast<double>(parameters_[i]) - before_[i]);
    totals_[UPDATE_RATIO] += std::sqrt(moved) / std::sqrt(square_sum(before_.data(), before_.size()));
}

void Member::minibatch(const std::pair<uint32_t, uint32_t>* order, int count) {
    const int64_t size = a_.observation, outputs = a_.actions;
    const float clip = hyperparameter(CLIP), share = 1.0f / static_cast<float>(count);
    const float bonus = hyperparameter(ENTROPY), value_weight = hyperparameter(VALUE);
    for (int i = 0; i < count; ++i) {
        std::copy_n(observations_ + order[i].second * size, size, &input_[i * size]);
        advantage_[i] = advantages_[order[i].second];
    }
    if (count > 1) {
        const auto [mean, variance] = moments(advantage_.data(), count);
        const float centre = static_cast<float>(mean), spread = static_cast<float>(std::sqrt(variance * count / (count - 1.0))) + 1e-8f;
        for (int i = 0; i < count; ++i) advantage_[i] = (advantage_[i] - centre) / spread;
    }
    const float* output = actor_.forward(input_.data(), count);
    float* spread_gradient = gradient_.data() + actor_size_ + critic_size_;
    if (!a_.discrete) std::fill_n(spread_gradient, a_.width, -bonus);
    double policy_loss = 0.0, value_loss = 0.0, entropy = 0.0, kl = 0.0, clipped = 0.0;
    for (int i = 0; i < count; ++i) {
        const float* action = actions_ + order[i].second * a_.width;
        const float *row = output + i * outputs, advantage = advantage_[i];
        float* d = &output_gradient_[i * outputs];
        float log_prob = 0.0f, row_entropy = 0.0f;
        if (a_.discrete) {
            row_entropy = probabilities(row, outputs, d, log_p_.data());
            log_prob = log_p_[static_cast<int64_t>(action[0])];
        } else {
            for (int64_t j = 0; j < outputs; ++j) {
                const float z = (action[j] - row[j]) * std::exp(-log_std()[j]);
                log_prob += -0.5f * z * z - log_std()[j] - 0.918938533f;
                row_entropy += log_std()[j] + 1.418938533f;
            }
        }
        const Surrogate term = surrogate(log_prob, log_probs_[order[i].second], advantage, clip, share);
        policy_loss += term.loss;
        entropy += row_entropy;
        kl += term.kl;
        clipped += term.clipped;
        const float slope = term.slope;
        if (a_.discrete) {
            choice_gradient(outputs, static_cast<int64_t>(action[0]), slope, bonus, share, row_entropy, log_p_.data(), d);
        } else {
            for (int64_t j = 0; j < outputs; ++j) {
                const float inverse = std::exp(-log_std()[j]), z = (action[j] - row[j]) * inverse;
                d[j] = slope * z * inverse;
                spread_gradient[j] += slope * (z * z - 1.0f);
            }
        }
    }
    actor_.backward(input_.data(), output_gradient_.data(), count, gradient_.data());
    const float* value = critic_.forward(input_.data(), count);
    for (int i = 0; i < count; ++i) {
        const float error = value[i] - returns_[order[i].second];
        value_loss += static_cast<double>(error) * error;
        value_gradient_[i] = value_weight * 2.0f * error * share;
    }
    critic_.backward(input_.data(), value_gradient_.data(), count, gradient_.data() + actor_size_);

    const float norm = static_cast<float>(std::sqrt(square_sum(gradient_.data(), gradient_.size())));
    const float scale = hyperparameter(MAX_NORM) / (norm + 1e-6f);
    const int64_t at = m_ * a_.parameters_size;
    adam(parameters_, a_.adam_mean + at, a_.adam_square + at, gradient_.data(), a_.parameters_size, hyper_[LEARNING_RATE],
         ++a_.adam_steps[m_], scale > 1.0f ? 1.0f : scale, 1e-5f);
    actor_.load_parameters(parameters_);
    critic_.load_parameters(parameters_ + actor_size_);
    totals_[POLICY_LOSS] += policy_loss / count;
    totals_[VALUE_LOSS] += value_loss / count;
    totals_[ENTROPY_TOTAL] += entropy / count / (a_.discrete ? std::log(static_cast<double>(outputs)) : static_cast<double>(a_.width));
    totals_[KL] += kl / count;
    totals_[CLIPPED] += clipped / count;
    totals_[GRADIENT_NORM] += norm;
    totals_[GRADIENT_CLIPPED] += scale < 1.0f;
    totals_[OPTIMISER_STEPS] += 1;
}

// -- plasticity -----------------------------------------------------------------------------------------------------------

void Member::measure() {
    const int64_t stride = std::max<int64_t>(1, batch_ / PLASTICITY_SAMPLE), size = a_.observation;
    int count = 0;
    for (int64_t i = 0; i < batch_; i += stride) std::copy_n(observations_ + i * size, size, &input_[size * count++]);
    actor_.forward(input_.data(), count);
    std::tie(totals_[DORMANT_SHARE], totals_[FEATURE_RANK]) =
        plasticity(actor_.first_hidden(), a_.first, actor_.second_hidden(), a_.second, count);
}

// -- evaluation -----------------------------------------------------------------------------------------------------------

void Member::evaluate(double* returns, int64_t* lengths) {
    Draws action_draws = draws(EVALUATION), reset_draws = draws(EVALUATION), noise_draws = draws(EVALUATION);
    auto act = [&](const float* observations, const int64_t* index, int rows, float* actions) {
        normalise(observations, input_.data(), rows);
        const float* output = actor_.forward(input_.data(), rows);
        for (int i = 0; i < rows; ++i)
            sample(output + i * a_.actions, action_draws, index[i] * draws_per_action(), actions + i * a_.width);
    };
    simulator_.play(a_.episodes, reset_draws, noise_draws, returns, lengths, act);
}

}  // namespace hpbench::ppo
