"""From search trees and answers to training data: step labels, trajectories, preference pairs, verified answers, judged
steps, and the records that these become. All but `judged.judge_steps`, which asks an engine, is pure."""
