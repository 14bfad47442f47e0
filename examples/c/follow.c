/* Follow a sensor from C: rows of numbers on stdin, one sample a line, become predictions.
 *
 *   cc follow.c $(pkg-config --cflags --libs mmkd) -o follow
 *   ./follow student.edge < samples.csv    of a derived sensor also: ./follow cheap.edge recorded < recorded.csv
 */
#include <math.h>
#include <mmkd.h>
#include <stdio.h>
#include <stdlib.h>

static void show(const mmkd_prediction *prediction, void *user)
{
    (void)user;
    printf("%s %s %.3f %s\n", mmkd_condition_name(prediction->condition), prediction->label, prediction->probability,
           prediction->reason);
}

/* One sample from a line of text; an empty or unreadable cell is missing. */
static void read_row(char *line, float *row, int32_t channels)
{
    for (int32_t c = 0; c < channels; c++) {
        char *end;
        row[c] = strtof(line, &end);
        if (end == line) row[c] = NAN;
        while (*end && *end != ',' && *end != '\n') end++;
        line = *end == ',' ? end + 1 : end;
    }
}

int main(int count, char **arguments)
{
    char error[200], line[4096];
    mmkd_bundle *bundle;
    mmkd_predictor *predictor;
    mmkd_options options = {.recorded = count == 3};
    if (count < 2) {
        fprintf(stderr, "usage: follow BUNDLE [recorded] < SAMPLES.csv\n");
        return 2;
    }
    if (mmkd_open_file(arguments[1], &bundle, error, sizeof error)) {
        fprintf(stderr, "%s\n", error);
        return 6;
    }
    int status = mmkd_predictor_open(bundle, &options, &predictor, error, sizeof error);
    if (status) {
        fprintf(stderr, "%s\n", error);
    } else {
        int32_t channels = options.recorded ? mmkd_describe(bundle, 0).recorded_channels : mmkd_describe(bundle, 0).channels;
        float *row = calloc((size_t)channels, sizeof *row);
        while (row && fgets(line, sizeof line, stdin)) {
            read_row(line, row, channels);
            mmkd_push(predictor, row, 1, NULL, NAN, show, NULL);
        }
        free(row);
    }
    mmkd_predictor_close(predictor);
    mmkd_close(bundle);
    return status ? 2 : 0;
}
