/* Trees, which read the features of the intervals. */
#ifndef MMKD_TREES_H
#define MMKD_TREES_H

#include "layers.h"

enum { WALKS = 4 };

/* Add the trees' weighted logits to the head's. */
static void add_votes(const mmkd_model *model, const float *features, float *votes, float *logits)
{
    const mmkd_trees *f = &model->trees;
    const float n = (float)f->count, outputs = (float)model->outputs;
    memset(votes, 0, (size_t)model->outputs * sizeof(float));
    for (int64_t tree = 0; tree < f->count; tree += WALKS) { /* several at once: a walk waits for memory */
        int64_t at[WALKS], walks = f->count - tree < WALKS ? f->count - tree : WALKS, is_inside = 1;
        for (int64_t n = 0; n < walks; n++) at[n] = f->root[tree + n];
        while (is_inside) {
            is_inside = 0;
            for (int64_t n = 0; n < walks; n++) {
                if (at[n] < 0) continue;
                const mmkd_node *node = f->node + at[n];
                at[n] = node->next[!(features[node->feature] <= node->threshold)];
                is_inside |= at[n] >= 0;
            }
        }
        for (int64_t n = 0; n < walks; n++)
            for (int64_t k = 0; k < model->outputs; k++) votes[k] += f->leaf[(-1 - at[n]) * model->outputs + k];
    }
    for (int64_t k = 0; k < model->outputs; k++) { /* one more vote is spread evenly: no fraction is 0 */
        const float sum = votes[k];
        if (model->task == MMKD_CLASSIFICATION) logits[k] += f->weight * logf((sum + 1 / outputs) / (n + 1));
        else if (model->task == MMKD_MULTI_LABEL) logits[k] += f->weight * logf((sum + 0.5f) / (n - sum + 0.5f));
        else logits[k] += f->weight * sum / n;
    }
}

#endif
