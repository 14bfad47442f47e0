/* Follow a sensor from C: rows of numbers on stdin, one sample a line, become predictions.
 *
 *   cc follow.c $(pkg-config --cflags --libs mmkd) -o follow
 *   ./follow student.edge < samples.csv    of a derived sensor also: ./follow cheap.edge recorded < recorded.csv
 */
#include <math.h>
#include <mmkd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void show(const mmkd_prediction *prediction, void *user)
{
    (void)user;
    printf("%s %s %.3f %s\n", mmkd_condition_name(prediction->condition), prediction->label, prediction->probability,
           prediction->reason);
}

/* One sample from a line of text; an empty cell is missing. Returns the number of its cells, or 0 if one is no number. */
static int32_t read_row(const char *line, float *row, int32_t channels)
{
    for (int32_t count = 0;; line++) {
        char *end;
        float value = strtof(line, &end);
        if (count < channels) row[count] = end == line ? NAN : value;
        count++;
        line = end + strspn(end, " \t\r\n");
        if (*line != ',') return *line ? 0 : count;
    }
}

static int refuse(const mmkd_bundle *bundle, int is_recorded, long number, const char *line)
{
    mmkd_student student = mmkd_describe(bundle, 0);
    fprintf(stderr, "line %ld: expected %d numbers, ", number, is_recorded ? student.recorded_channels : student.channels);
    if (is_recorded) fprintf(stderr, "the channels of %s, ", student.recorded);
    for (int32_t c = 0; c < student.channels && !is_recorded; c++) fprintf(stderr, "%s, ", mmkd_channel(bundle, 0, c));
    fprintf(stderr, "got '%.*s'; leave out headers and columns of times\n", (int)strcspn(line, "\r\n"), line);
    return 2;
}

int main(int count, char **arguments)
{
    char error[200], line[16384];
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
        for (long number = 1; !status && row && fgets(line, sizeof line, stdin); number++) {
            if (read_row(line, row, channels) != channels) status = refuse(bundle, options.recorded, number, line);
            else mmkd_push(predictor, row, 1, NULL, NAN, show, NULL);
        }
        free(row);
    }
    mmkd_predictor_close(predictor);
    mmkd_close(bundle);
    return status ? 2 : 0;
}
